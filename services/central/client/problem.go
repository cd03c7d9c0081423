package client

import "branchpoint/provisioning"

// RequestProblem answers every request that fails (RFC 9457, application/problem+json).
type RequestProblem struct {
	provisioning.ProblemDocument
	// Errors are what is wrong with the form of the request.
	Errors []RequestFault `json:"errors,omitempty"`
}

// RequestFault is one thing that is wrong with the form of a request.
type RequestFault struct {
	// Location is where, such as body.documents[3].kind or query.limit; empty where it is the request as a whole.
	Location string `json:"location,omitempty"`
	Message  string `json:"message"`
}

// Error is the problem's detail.
func (p *RequestProblem) Error() string { return p.Detail }

// GetStatus is the HTTP status.
func (p *RequestProblem) GetStatus() int { return p.Status }

// ContentType is that of every problem.
func (p *RequestProblem) ContentType(string) string { return provisioning.ProblemContentType }
