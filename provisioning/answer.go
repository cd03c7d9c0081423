package provisioning

import (
	"encoding/json"
	"errors"
	"fmt"
)

// ProblemDocument is an error as it travels between programs: RFC 9457, content type application/problem+json, with
// our own members code, next and problems.
type ProblemDocument struct {
	Title    string   `json:"title"`
	Status   int      `json:"status"`
	Detail   string   `json:"detail"`
	Code     Code     `json:"code"`
	Next     string   `json:"next,omitempty"`
	Problems Problems `json:"problems,omitempty"`
}

// ProblemContentType is the media type of a ProblemDocument.
const ProblemContentType = "application/problem+json"

// NewProblemDocument describes err. An internal error's text is withheld: it is for the log, not for who asked.
func NewProblemDocument(err error) ProblemDocument {
	code := CodeOf(err)
	d := ProblemDocument{Title: string(code), Status: code.HTTPStatus(), Detail: err.Error(), Code: code, Next: NextOf(err)}
	if ps, ok := errors.AsType[Problems](err); ok {
		d.Problems = ps
		d.Detail = fmt.Sprintf("%d problems in the configuration", len(ps))
	}
	if code == CodeInternal {
		d.Detail = "an internal error; the log of the answering program has it"
	}
	return d
}

// HTTPStatus is the HTTP status of a failure (RFC 9110 section 15).
func (c Code) HTTPStatus() int {
	switch c {
	case CodeInvalid:
		return 400
	case CodeUnauthorized:
		return 401
	case CodeForbidden:
		return 403
	case CodeNotFound:
		return 404
	case CodeConflict:
		return 409
	case CodeCorrupt:
		return 422
	case CodeUnavailable:
		return 503
	case CodeNoSpace:
		return 507
	}
	return 500
}

// DecodeProblem turns the body of an HTTP error answer into the error it describes; any other body into one that says
// only the status.
func DecodeProblem(status int, body []byte) error {
	var d ProblemDocument
	if err := json.Unmarshal(body, &d); err == nil && d.Detail != "" && d.Code != "" {
		if len(d.Problems) > 0 {
			return d.Problems
		}
		return &Error{Code: d.Code, Message: d.Detail, Next: d.Next}
	}
	code := CodeUnavailable
	switch {
	case status == 401:
		code = CodeUnauthorized
	case status == 403:
		code = CodeForbidden
	case status == 404:
		code = CodeNotFound
	case status == 507:
		code = CodeNoSpace
	case status/100 == 4:
		code = CodeInvalid
	}
	return Errorf(code, "", "the other side answered with HTTP status %d", status)
}
