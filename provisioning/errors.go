package provisioning

import (
	"errors"
	"fmt"
)

// Code says what kind of failure an error is. The set is closed: programs decide by code, people read the message.
type Code string

// The closed set of failure codes.
const (
	// CodeInvalid: what was given is malformed or contradicts itself; trying again unchanged cannot help.
	CodeInvalid Code = "invalid"
	// CodeNotFound: what was named does not exist.
	CodeNotFound Code = "not-found"
	// CodeConflict: it contradicts what is stored, or somebody else changed it meanwhile.
	CodeConflict Code = "conflict"
	// CodeUnauthorized: the caller has not proved who it is, or the proof has expired.
	CodeUnauthorized Code = "unauthorized"
	// CodeForbidden: the caller is known and may not do this.
	CodeForbidden Code = "forbidden"
	// CodeCorrupt: bytes do not match their checksum or signature.
	CodeCorrupt Code = "corrupt"
	// CodeNoSpace: a disk is full.
	CodeNoSpace Code = "no-space"
	// CodeUnavailable: the other side cannot be reached or is not ready; trying again may help.
	CodeUnavailable Code = "unavailable"
	// CodeInternal: everything else, a defect of ours until shown otherwise.
	CodeInternal Code = "internal"
)

// Error is a failure with its code and, where there is one, the next step a person can take.
type Error struct {
	// Code is what kind of failure this is.
	Code Code
	// Message says what went wrong and in doing what, causes included, without a full stop.
	Message string
	// Next says what to do about it; may be empty.
	Next string
	// Err is the cause; may be nil.
	Err error
}

// Error returns the message, which contains its cause's; the next step is left to the edge that shows it.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error; what a %w verb in format names is its cause.
func Errorf(code Code, next, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Next: next, Err: errors.Unwrap(err)}
}

// CodeOf returns the code of the first Error in err's chain, CodeInternal if there is none, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	if _, ok := errors.AsType[Problems](err); ok {
		return CodeInvalid
	}
	return CodeInternal
}

// NextOf returns the next step a person can take, "" if the error names none.
func NextOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Next
	}
	return ""
}
