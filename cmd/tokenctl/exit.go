package main

import (
	"context"

	"google.golang.org/grpc/codes"
)

// Exit statuses. docs/tokenctl.md is compared with exitStatuses.
const (
	exitDone          = 0
	exitFailed        = 1
	exitUsage         = 2
	exitNotAllowed    = 3
	exitNotFound      = 4
	exitPrecondition  = 5
	exitUnavailable   = 6
	exitAborted       = 7
	exitDeadline      = 8
	exitLimited       = 9
	exitNeedsOperator = 10
	exitNotRotated    = 11
	exitUnknownCall   = 12
	exitFault         = 13
	exitInterrupted   = 130
)

// exitCause is one row of the table of exit statuses.
type exitCause struct {
	status  int
	codes   []codes.Code // of the broker's answer
	meaning string
}

// exitStatuses returns all that the tool ends with, by ascending status.
func exitStatuses() []exitCause {
	return []exitCause{
		{exitDone, []codes.Code{codes.OK}, "Done. A dry run that says what would happen, too."},
		{exitFailed, []codes.Code{codes.Unknown, codes.Internal, codes.DataLoss, codes.OutOfRange}, "It failed and no other status fits; the message says why."},
		{exitUsage, []codes.Code{codes.InvalidArgument}, "The command line, the configuration file or a value is wrong."},
		{exitNotAllowed, []codes.Code{codes.PermissionDenied, codes.Unauthenticated}, "You may not do this, or the broker does not know you. `tokenctl whoami` shows what it sees."},
		{exitNotFound, []codes.Code{codes.NotFound}, "No such client, secret version or rotation."},
		{exitPrecondition, []codes.Code{codes.FailedPrecondition, codes.AlreadyExists}, "Something must be done first; the message says what."},
		{exitUnavailable, []codes.Code{codes.Unavailable}, "The broker, its store or the authorization server cannot be reached. Try again later."},
		{exitAborted, []codes.Code{codes.Aborted}, "Somebody else changed the client at the same moment. Look again, then repeat."},
		{exitDeadline, []codes.Code{codes.DeadlineExceeded}, "The time of `--timeout` is over. What has begun at the broker goes on."},
		{exitLimited, []codes.Code{codes.ResourceExhausted}, "Too many calls or tokens. Wait as long as the message says."},
		{exitNeedsOperator, nil, "The rotation does not go on before a person has acted; the message says how."},
		{exitNotRotated, nil, "The rotation is over and the new secret is not the current one: failed, aborted or rolled back."},
		{exitUnknownCall, []codes.Code{codes.Unimplemented}, "The broker does not have this call: it is older than tokenctl."},
		{exitFault, nil, "A check found something broken, or `audit verify` or `access explain` says no; what was printed says what mends it."},
		{exitInterrupted, []codes.Code{codes.Canceled}, "Ctrl-C. What has begun at the broker goes on."},
	}
}

// statusOfCode returns the exit status of a gRPC code.
func statusOfCode(code codes.Code) int {
	for _, cause := range exitStatuses() {
		for _, c := range cause.codes {
			if c == code {
				return cause.status
			}
		}
	}
	return exitFailed
}

// interrupted reports whether somebody pressed Ctrl-C: ctx is that of the process.
func interrupted(ctx context.Context) bool { return ctx.Err() != nil }
