package fdbroker

import (
	"context"
	"log/slog"
	"time"
)

// Options of [Join]; the zero value will do.
type Options struct {
	// Health is asked at each heartbeat, in a goroutine of its own; the daemon is told its result. In probation an error brings the
	// previous version back. One that has not answered for three seconds counts as an error.
	Health func(ctx context.Context) error
	// Quiesce is called before another process may serve, and before this one leaves, and ends work that must run in one process only. The
	// member waits for it, within Times.Quiesce; the context ends then. Quiesce is also called if this process has lost the right to serve, or may
	// lose it while it has no channel to the daemon.
	Quiesce func(ctx context.Context)
	// Resume is called when the handoff failed behind a Quiesce, the channel is back, or this process serves again: start that work again.
	Resume func()
	// Times are the limits for handoffs in which this process is replaced. Zero: the daemon's own.
	Times Times
	// Drain is how long the last requests of this process have after [Member.Leave]. Zero: 30 s.
	Drain time.Duration
	// Logger is told of phases and of failures. Nil: no log.
	Logger *slog.Logger
}

// Times are the limits of a handoff; docs/protocol.md says what each is.
type Times struct {
	Ready, Quiesce, Freeze, Prepare, Commit, Probation, Heartbeat, Silence time.Duration
}

func (t Times) wire() *handoffTimes {
	if t == (Times{}) {
		return nil
	}
	ms := func(d time.Duration) *uint64 {
		if d <= 0 {
			return nil
		}
		n := uint64(d.Milliseconds())
		return &n
	}
	return &handoffTimes{
		Ready: ms(t.Ready), Quiesce: ms(t.Quiesce), Freeze: ms(t.Freeze), Prepare: ms(t.Prepare), Commit: ms(t.Commit),
		Probation: ms(t.Probation), Heartbeat: ms(t.Heartbeat), Silence: ms(t.Silence),
	}
}

func orElse(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}
