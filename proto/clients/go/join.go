//go:build linux

package fdbroker

import (
	"context"
	"time"
)

const joinLimit = 10 * time.Second

// Join takes this process's place in a service of the daemon at control: the first, or the next version of the one that serves, which
// still does when this returns. Then ask for sections and listeners, and call [Member.Ready].
//
// A context without a deadline has one of ten seconds. Where it gives an error, nothing has changed for anybody: [ErrBusy] (another is
// joining), [ErrDenied], [ErrControlPath], [ErrNotADaemon], [ErrMismatch], [ErrDeadline], ERR_FDB_NO_DESCRIPTORS, ERR_FDB_VERSION, ERR_FDB_SERVICE, ERR_FDB_STATE_….
func Join(ctx context.Context, control, service string, options Options) (*Member, error) {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, joinLimit)
		defer cancel()
	}
	link, err := connect(ctx, control)
	if err != nil {
		return nil, err
	}
	got, err := greet(ctx, link, hello{Service: service, Intent: intentJoin, Times: options.Times.wire()})
	if err != nil {
		link.decline(err)
		return nil, err
	}
	if !got.Daemon {
		got.close()
		why := "process %d on %s holds its sockets itself: a member in Go needs fd-broker serve"
		err := fault("ERR_FDB_NOT_A_DAEMON", why, got.Pid, control)
		link.decline(err)
		return nil, err
	}
	m := newMember(control, service, options)
	m.generation = int(got.Generation)
	m.mu.Lock()
	m.attach(link, got)
	m.settled = link
	m.mu.Unlock()
	if err := m.takeOffer(ctx); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// takeOffer waits for the Offer with what belongs to it, and reads the state.
func (m *Member) takeOffer(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.await(ctx, func() bool { return m.state.Holds || m.over }); err != nil {
		return passing("ERR_FDB_DEADLINE", "the daemon made no offer: %v", err)
	}
	if m.over {
		return m.why(ErrAborted, "the daemon ended the handoff")
	}
	err := m.adoptSegments(func(s *segment) bool { return int64(s.epoch) <= m.state.Source })
	if err == nil {
		err = m.log.catchUp()
	}
	// No other process can write: the application may fill its state before it is ready.
	if err == nil && m.first() {
		err = m.writeIn(m.state.Epoch)
	}
	if err != nil {
		m.refuse(coded(err))
	}
	return err
}
