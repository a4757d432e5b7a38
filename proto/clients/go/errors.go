package fdbroker

import (
	"errors"
	"fmt"
)

// Error is what went wrong, with the stable code that docs/errors.md lists.
type Error struct {
	Code    string
	Message string
	// Retryable says that it may pass.
	Retryable bool
	cause     error
}

// Errors that callers tell apart, for [errors.Is]. Any other code is in [Error.Code].
var (
	ErrAborted       = &Error{Code: "ERR_FDB_ABORTED"}
	ErrBind          = &Error{Code: "ERR_FDB_BIND"}
	ErrBusy          = &Error{Code: "ERR_FDB_BUSY"}
	ErrChannelClosed = &Error{Code: "ERR_FDB_CHANNEL_CLOSED"}
	ErrClosed        = &Error{Code: "ERR_FDB_CLOSED"}
	ErrControlPath   = &Error{Code: "ERR_FDB_CONTROL_PATH"}
	ErrDeadline      = &Error{Code: "ERR_FDB_DEADLINE"}
	ErrDenied        = &Error{Code: "ERR_FDB_DENIED"}
	ErrFenced        = &Error{Code: "ERR_FDB_FENCED"}
	ErrMismatch      = &Error{Code: "ERR_FDB_FD_MISMATCH"}
	ErrNotADaemon    = &Error{Code: "ERR_FDB_NOT_A_DAEMON"}
	ErrNotReady      = &Error{Code: "ERR_FDB_NOT_READY"}
	ErrSchema        = &Error{Code: "ERR_FDB_SCHEMA"}
)

func (e *Error) Error() string {
	if e.Message == "" {
		return e.Code
	}
	return e.Code + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is an Error with the same code.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Code == e.Code
}

func fault(code, format string, args ...any) *Error {
	made := &Error{Code: code, Message: fmt.Sprintf(format, args...)}
	for _, arg := range args {
		if cause, ok := arg.(error); ok {
			made.cause = cause
		}
	}
	return made
}

func passing(code, format string, args ...any) *Error {
	made := fault(code, format, args...)
	made.Retryable = true
	return made
}

// coded makes an Error of any other.
func coded(err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	return fault("ERR_FDB_INTERNAL", "%v", err)
}

// told is an error as a peer says it.
func told(code, message string, retryable bool, otherwise string) *Error {
	if code == "" {
		code = otherwise
	}
	return &Error{Code: code, Message: message, Retryable: retryable}
}
