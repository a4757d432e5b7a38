//go:build linux

package fdbroker

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Member is this process's part in a service, made by [Join]. All methods may be called from any goroutine.
type Member struct {
	control, service string
	options          Options
	generation       int

	// mu guards everything below. A goroutine that only reads the state while this process writes it locks mu for reading.
	mu sync.RWMutex
	// changed is closed, and made again, when something has changed.
	changed chan struct{}
	state   memberState
	reason  *Error
	served  bool
	over    bool
	retired chan struct{}

	link        *channel
	last        *channel
	holder      *welcome
	holderPidfd int
	awakeSince  time.Time
	beats       bool
	beatAt      chan struct{}
	ended       chan struct{}
	health      healthWatch
	hooked      chan struct{}
	// quiesced: the once-only work was told to end. workEnded is closed when it has.
	quiesced     bool
	workEnded    chan struct{}
	lastRequests lastRequests

	offer   *offer
	bundles bundles
	// bundle: one at a time, with its announcement. The lock is taken before mu, and listening before that.
	bundle    sync.Mutex
	listening sync.Mutex
	// settled is the link over which the holder knows what this process has: nothing may be registered before.
	settled    *channel
	acks       map[[2]uint64]bool
	answers    map[uint64]*registered
	nextNumber uint64
	pidfds     []int
	registry   map[string]held
	listeners  map[string]*Listener
	// givenUp has the names of listeners that the next version does not use.
	givenUp map[string]bool
	// elsewhere has the names of the previous version's listeners under which this version listens at another address.
	elsewhere map[string]bool
	// lasts are listeners that still accept although this process has left.
	lasts map[*Listener]bool

	log      *stateLog
	segments map[uint64]*segment
	// pruned is above the epoch of every segment that prune has dropped.
	pruned   uint64
	sections map[string]sectionSchema
	writing  *segment
	paused   bool
	frozenAt *position
	incoming *incoming
	// followed: a member of another service reads along. growing: it will be told.
	followed, growing bool
	drain             *drain
	closing           sync.Once
}

func newMember(control, service string, options Options) *Member {
	hooked := make(chan struct{})
	close(hooked)
	m := &Member{
		control: control, service: service, options: options,
		changed: make(chan struct{}), retired: make(chan struct{}), ended: make(chan struct{}), hooked: hooked,
		state: initialMember(), holderPidfd: -1, beatAt: make(chan struct{}, 1),
		bundles: bundles{}, acks: map[[2]uint64]bool{}, answers: map[uint64]*registered{}, nextNumber: 1,
		registry: map[string]held{}, listeners: map[string]*Listener{},
		givenUp: map[string]bool{}, elsewhere: map[string]bool{}, lasts: map[*Listener]bool{},
		log: newStateLog(), segments: map[uint64]*segment{}, sections: map[string]sectionSchema{},
		incoming: newIncoming(),
	}
	m.lastRequests.m = m
	go m.beat()
	return m
}

// Generation counts the members that the service has had.
func (m *Member) Generation() int { return m.generation }

// Phase is joining, ready, serving, standby, leaving, gone …: see docs/protocol.md.
func (m *Member) Phase() string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.Phase
}

// Serving reports whether it is this process's turn. Where it is not, answers should announce the end of their connection.
func (m *Member) Serving() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.in("beginning", "serving", "frozen", "orphan", "unfit") && !m.lastRequests.begun
}

// First reports whether this is the first process of the service, without a state: the application may fill it before [Member.Ready].
func (m *Member) First() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.first()
}

func (m *Member) first() bool { return m.state.Source == 0 }

// Position of the state: equal in every process that has read the same.
type Position struct {
	Epoch, Sequence uint64
	// Digest is over all entries.
	Digest string
}

// Position tells where the state stands.
func (m *Member) Position() Position {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.follow()
	return Position{m.log.epoch, m.log.sequence, m.log.digest.String()}
}

// Ready says that this process can serve, and returns when it does. If Ready fails, the error has the reason, and the previous version keeps
// serving. When the context ends, the handoff is given up. Call it once (ERR_FDB_READY_TWICE).
func (m *Member) Ready(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state.Phase != "joining" && !m.over {
		return fault("ERR_FDB_READY_TWICE", "Ready was already called (phase %s)", m.state.Phase)
	}
	m.step(event{Type: "adopted"})
	out := func() bool { return m.over || m.state.in("leaving", "gone", "unfit") }
	// Another process may serve by the time that this goroutine runs.
	err := m.await(ctx, func() bool { return m.served || out() })
	if m.served {
		return nil
	}
	if err != nil {
		late := passing("ERR_FDB_DEADLINE", "the handoff was not complete in time: %v", err)
		m.refuse(late)
		return late
	}
	return m.why(ErrClosed, "this member has left")
}

// Refuse says, before it serves, that this version cannot take over, and why. The one before serves on.
func (m *Member) Refuse(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuse(coded(err))
}

func (m *Member) refuse(why *Error) {
	if m.state.joining() && m.reason == nil {
		m.reason = why
	}
	m.step(event{Type: "refused"})
}

// Retired is closed when another serves for good, or [Member.Leave] has ended the work of this process, or this member was ended: the process
// should end with its last request.
func (m *Member) Retired() <-chan struct{} { return m.retired }

// Err says why this member does not serve, where something went wrong.
func (m *Member) Err() error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.reason == nil {
		return nil
	}
	return m.reason
}

// Leave leaves without waiting for a successor, for an order to end. Leave does not block: Options.Quiesce is called, a next version that has
// joined may take over, and this process stops accepting. The daemon keeps listeners and state for the next version, and new clients wait for it.
// Then Retired is closed: wait for the last connection, then Close.
//
// Until Close this process keeps the right to write, so that requests in flight make their changes, at most until 5 s (or half) of Options.Drain are
// left, or until a next version takes over, which then makes them. If a version stands by, that one serves again at once, and makes them.
func (m *Member) Leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastRequests.leave(m.drainLimit(), true)
}

// Close leaves at once: changes of requests in flight fail with [ErrClosed]. Call [Member.Leave] before, and wait for the last connection.
// Without a successor the daemon keeps listeners and state for the next. The state remains readable as it was read last.
func (m *Member) Close() error {
	m.closing.Do(func() {
		m.mu.Lock()
		m.step(event{Type: "leave"})
		m.step(event{Type: "drained"})
		m.end()
		last, drain := m.last, m.drain
		m.drain = nil
		m.mu.Unlock()
		if last != nil {
			// The daemon is to hear of it before the process ends.
			select {
			case <-last.flushed:
			case <-time.After(time.Second):
				last.close()
			}
		}
		if drain != nil {
			drain.close()
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, one := range m.segments {
			one.close()
		}
		m.segments, m.log.segments = map[uint64]*segment{}, nil
		closeAll(m.pidfds)
		m.pidfds = nil
	})
	return nil
}

// notify wakes all that [Member.await] something. With the lock.
func (m *Member) notify() {
	close(m.changed)
	m.changed = make(chan struct{})
	if m.over || m.lastRequests.begun || (m.state.over() && len(m.lasts) == 0) {
		select {
		case <-m.retired:
		default:
			close(m.retired)
		}
	}
}

// await gives up the lock while it waits, and has it again when it returns.
func (m *Member) await(ctx context.Context, holds func() bool) error {
	for !holds() {
		if err := m.awaitChange(ctx); err != nil {
			return err
		}
	}
	return nil
}

// awaitChange is as await, for whatever changes.
func (m *Member) awaitChange(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	changed := m.changed
	m.mu.Unlock()
	defer m.mu.Lock()
	select {
	case <-changed:
	case <-ctx.Done():
	}
	return nil
}

// awaitChangeFor is as awaitChange, for a time at most.
func (m *Member) awaitChangeFor(most time.Duration) {
	changed := m.changed
	m.mu.Unlock()
	defer m.mu.Lock()
	wait(changed, most)
}

// later acts with the lock, unless the member has ended by then.
func (m *Member) later(after time.Duration, act func()) {
	time.AfterFunc(after, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if !m.over {
			act()
		}
	})
}

func (m *Member) why(otherwise *Error, message string) *Error {
	if m.reason != nil {
		return m.reason
	}
	return &Error{Code: otherwise.Code, Message: message, Retryable: otherwise.Retryable}
}

func (m *Member) warn(format string, args ...any) {
	if m.options.Logger != nil {
		m.options.Logger.Log(context.Background(), slog.LevelInfo, fmt.Sprintf(format, args...), "service", m.service, "pid", os.Getpid())
	}
}
