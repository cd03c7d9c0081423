// Package sequence runs a task sequence: its steps in order, with a status message at the start and the end of each. It
// decides and reports; what a step does to the computer is a Runner's business (package steps).
package sequence
