//go:build linux

package fdbroker

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Listener is a listening socket that outlives this process, a [net.Listener]. Accept accepts while it is this process's turn, waits
// otherwise, and gives [net.ErrClosed] when the turn cannot come any more.
type Listener struct {
	// Name and Spec are those that it was asked for with.
	Name, Spec string
	// Adopted: it was handed over, not bound here.
	Adopted bool

	inner interface {
		net.Listener
		SetDeadline(time.Time) error
		SyscallConn() (syscall.RawConn, error)
	}
	mu        sync.Mutex
	turned    *sync.Cond
	accepting bool
	closed    bool
	// last: it accepts only what waits in the queue.
	last bool
	done chan struct{}
}

// past makes a running or later accept return at once.
var past = time.Unix(1, 0)

// newListener borrows the descriptor.
func newListener(name, spec string, fd int, adopted bool) (*Listener, error) {
	// All processes that hold the file share its flags: no process may make it block, not for a moment.
	if err := syscall.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	own, err := dup(fd)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(own), name)
	defer file.Close()
	inner, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	made := &Listener{Name: name, Spec: spec, Adopted: adopted, done: make(chan struct{})}
	made.turned = sync.NewCond(&made.mu)
	switch is := inner.(type) {
	case *net.TCPListener:
		made.inner = is
	case *net.UnixListener:
		is.SetUnlinkOnClose(false)
		made.inner = is
	default:
		inner.Close()
		return nil, fault("ERR_FDB_SPEC", "%s is no listener that this process can use", name)
	}
	return made, made.inner.SetDeadline(past)
}

// Accept gives the next connection, when it is this process's turn.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		for !l.accepting && !l.closed {
			l.turned.Wait()
		}
		closed := l.closed
		l.mu.Unlock()
		if closed {
			return nil, &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: net.ErrClosed}
		}
		conn, err := l.inner.Accept()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if waited := l.acceptLast(); waited != nil {
				return waited, nil
			}
			continue
		}
		return conn, err
	}
}

// acceptLast gives a connection that waits in the queue of a listener that is about to be closed, and closes it when none does.
func (l *Listener) acceptLast() net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.last || l.closed {
		return nil
	}
	if raw, err := l.inner.SyscallConn(); err == nil {
		got := -1
		raw.Control(func(fd uintptr) {
			for err = syscall.EINTR; err == syscall.EINTR || err == syscall.ECONNABORTED; {
				got, _, err = syscall.Accept4(int(fd), syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
			}
		})
		if got >= 0 {
			file := os.NewFile(uintptr(got), l.Name)
			defer file.Close()
			if conn, err := net.FileConn(file); err == nil {
				return conn
			}
		}
	}
	l.close()
	return nil
}

// closeBehindQueue makes Accept close the listener when it has given what waits in the queue.
func (l *Listener) closeBehindQueue() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = true
	l.inner.SetDeadline(past)
}

// Addr is where it listens.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Close ends accepting in this process, for good. The socket lives as long as the daemon, or anybody, has it.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.close()
}

// close is called with the lock.
func (l *Listener) close() error {
	if l.closed {
		return nil
	}
	l.accepting, l.closed = false, true
	close(l.done)
	l.turned.Broadcast()
	return l.inner.Close()
}

// turn says whether it is this process's turn.
func (l *Listener) turn(accepting bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	until := past
	if accepting {
		until = time.Time{}
	}
	if err := l.inner.SetDeadline(until); err != nil {
		return err
	}
	l.accepting = accepting
	l.turned.Broadcast()
	return nil
}

// Listen gives the listener of that name: the one that was handed over if it has this address, else bound here and given to the daemon.
// spec is `tcp://HOST:PORT`, `tcp://*:PORT` or `unix:/PATH`, with `?backlog=N`, `?reusePort`, `?mode=0660`. Errors: ERR_FDB_SPEC, [ErrBind],
// ERR_FDB_LISTENER_TWICE, [ErrDeadline].
func (m *Member) Listen(ctx context.Context, name, spec string) (*Listener, error) {
	wanted, err := parseSpec(spec)
	if err != nil {
		return nil, err
	}
	m.listening.Lock()
	defer m.listening.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leaves() {
		return nil, m.why(ErrClosed, "this member has left")
	}
	if m.listeners[name] != nil {
		return nil, fault("ERR_FDB_LISTENER_TWICE", "listener %s was asked for before", name)
	}
	before, known := m.registry[name]
	adopted := known && before.Role == roleListener && answers(before.Spec, wanted)
	if !adopted {
		fd, err := bind(wanted)
		if err != nil {
			return nil, err
		}
		if known && before.Role == roleListener && !m.beats {
			m.elsewhere[name] = true
		}
		one := held{item{Role: roleListener, Name: name, Spec: spec}, fd}
		if err := m.register(ctx, one); err != nil {
			closeAll([]int{fd})
			return nil, err
		}
		if m.leaves() {
			closeAll([]int{fd})
			return nil, m.why(ErrClosed, "this member has left")
		}
		m.keep(one)
	} else if m.beats {
		// At the end of the probation the daemon closes its descriptors that neither Ready nor a registration has named.
		if err := m.register(ctx, before); err != nil {
			return nil, err
		}
		if m.leaves() {
			return nil, m.why(ErrClosed, "this member has left")
		}
	}
	made, err := newListener(name, spec, m.registry[name].fd, adopted)
	if err != nil {
		return nil, coded(err)
	}
	if err := made.turn(m.state.Accepting); err != nil {
		made.Close()
		return nil, coded(err)
	}
	m.listeners[name] = made
	return made, nil
}

// leaves reports whether this process accepts no more.
func (m *Member) leaves() bool { return m.over || m.state.over() || m.lastRequests.begun }

// answers reports whether what was handed over listens where it is wanted. Options that are not known here do not matter.
func answers(spec string, wanted listenSpec) bool {
	if spec == "" {
		return true
	}
	address, _, _ := strings.Cut(spec, "?")
	is, err := parseSpec(address)
	return err == nil && sameAddress(is, wanted)
}

// register gives the daemon a descriptor to keep. Over the next link, where one is lost meanwhile. Gives up the lock while it waits.
func (m *Member) register(ctx context.Context, one held) error {
	for {
		if err := m.await(ctx, func() bool { return (m.link != nil && m.link == m.settled) || m.leaves() }); err != nil {
			return passing("ERR_FDB_DEADLINE", "the daemon is not there: %v", err)
		}
		if m.leaves() {
			return m.why(ErrClosed, "this member has left")
		}
		answer, err := m.registerOver(m.link, one)
		if err == nil && answer.Code != "" {
			return told(answer.Code, answer.Message, false, "")
		}
		if !errors.Is(err, ErrChannelClosed) {
			return err
		}
		// The reader notices the end of the link soon, and another link follows.
		link := m.settled
		if err := m.await(ctx, func() bool { return m.link != link || m.leaves() }); err != nil {
			return passing("ERR_FDB_DEADLINE", "the daemon is not there: %v", err)
		}
	}
}

func (m *Member) registerOver(link *channel, one held) (*registered, error) {
	request := m.number()
	m.mu.Unlock()
	defer m.mu.Lock()
	m.bundle.Lock()
	defer m.bundle.Unlock()
	if err := m.sendBundle(link, []held{one}); err != nil {
		return nil, err
	}
	if err := link.send(envelope{Register: &register{Request: request}}); err != nil {
		return nil, err
	}
	err := m.awaitAnswer(link, func() bool { return m.answers[request] != nil })
	m.mu.Lock()
	defer m.mu.Unlock()
	answer := m.answers[request]
	delete(m.answers, request)
	return answer, err
}
