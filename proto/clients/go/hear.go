//go:build linux

package fdbroker

import (
	"context"
	"errors"
	"io"
	"time"
)

// attach goes on with this link. With the lock.
func (m *Member) attach(link *channel, got *greeting) {
	m.link, m.last, m.holder = link, link, got.welcome
	closeAll([]int{m.holderPidfd})
	m.holderPidfd = got.pidfd
	m.awakeSince, m.followed = time.Now(), false
	// The daemon numbers the senders of changes again for each link.
	m.incoming = newIncoming()
	go m.listen(link, got.rest)
}

// listen takes what the holder says over a link, until its end.
func (m *Member) listen(link *channel, messages []message) {
	defer link.release()
	for {
		m.mu.Lock()
		for i, one := range messages {
			if link != m.link {
				closeFds(messages[i:])
				break
			}
			m.hear(one)
		}
		m.notify()
		m.mu.Unlock()
		var err error
		if messages, err = link.receive(); err != nil {
			m.mu.Lock()
			if link == m.link {
				m.ending(err)
			}
			m.notify()
			m.mu.Unlock()
			return
		}
	}
}

func (m *Member) ending(err error) {
	if errors.Is(err, io.EOF) {
		m.lose()
	} else {
		m.broken(err)
	}
}

// lose: the link has ended.
func (m *Member) lose() {
	m.dropLink()
	m.step(event{Type: "lost"})
}

func (m *Member) dropLink() {
	if m.link != nil {
		m.link.close()
		m.link = nil
	}
	m.bundles.close()
}

// broken: what the holder sent cannot be taken.
func (m *Member) broken(err error) {
	m.warn("%v", err)
	if m.reason == nil {
		m.reason = coded(err)
	}
	if m.state.joining() {
		m.step(event{Type: "refused"})
	} else {
		m.lose()
	}
}

// hear takes one message, and owns its descriptors.
func (m *Member) hear(one message) {
	if one.Fds != nil {
		m.takeBatch(one.Fds, one.fds)
		return
	}
	closeAll(one.fds)
	switch {
	case one.FdsAck != nil:
		m.acks[[2]uint64{one.FdsAck.Bundle, one.FdsAck.Index}] = true
	case one.Offer != nil:
		m.offer = one.Offer
	case one.Registered != nil:
		m.answers[one.Registered.Request] = one.Registered
	case one.StatusRequest != nil:
		m.tell(envelope{Status: &status{JSON: m.status()}})
	case one.UpgradeRequest != nil:
		m.answerUpgrade(one.UpgradeRequest)
	case one.Command != nil:
		m.answerCommand(one.Command)
	case one.Write != nil:
		m.takeWrite(one.Write)
	case one.TellAppended != nil:
		m.followed = one.TellAppended.Wanted
		m.grown()
	case one.Reject != nil:
		m.blame(told(one.Reject.Code, one.Reject.Message, one.Reject.Retryable, "ERR_FDB_REJECTED"))
		m.step(event{Type: "refused"})
	case one.Abort != nil:
		m.blame(told(one.Abort.Code, one.Abort.Message, false, "ERR_FDB_ABORTED"))
		m.order("abort", m.state.Epoch)
	case one.Quiesce != nil:
		m.order("quiesce", int64(one.Quiesce.Epoch))
	case one.Unquiesce != nil:
		m.order("unquiesce", m.state.Epoch)
	case one.Freeze != nil:
		m.order("freeze", m.state.Epoch)
	case one.Sealed != nil:
		m.order("sealed", m.state.Epoch)
	case one.Commit != nil:
		m.order("commit", int64(one.Commit.Epoch))
	case one.Retire != nil:
		m.giveUp(one.Retire.Names)
		m.order("retire", m.state.Epoch)
	case one.Resume != nil:
		m.order("resume", m.state.Epoch)
	case one.Reinstate != nil:
		m.order("reinstate", int64(one.Reinstate.Epoch))
	case one.Released != nil:
		m.giveUp(one.Released.Names)
		m.lastRequests.standbyReleased = true
		m.order("released", m.state.Epoch)
	case one.Fenced != nil:
		m.order("fenced", m.state.Epoch)
	}
}

// giveUp remembers listeners that the version which serves does not use.
func (m *Member) giveUp(names []string) {
	for _, name := range names {
		m.givenUp[name] = true
	}
}

func (m *Member) blame(why *Error) {
	if m.reason == nil {
		m.reason = why
	}
}

// order is a step; `sealed` is what the kernel says now of the segment of that epoch.
func (m *Member) order(kind string, epoch int64) {
	m.step(event{Type: "message", Message: &order{Kind: kind, Epoch: epoch}, Sealed: m.sealed(epoch)})
}

// sealed holds also of a segment that was dropped, as nothing had been written before it was sealed: a word that names it is of the past.
func (m *Member) sealed(epoch int64) bool {
	if epoch < 0 {
		return false
	}
	if one := m.segments[uint64(epoch)]; one != nil {
		return one.sealed()
	}
	return uint64(epoch) < m.pruned
}

// tell says what needs no answer: the end of a link that cannot take it is heard.
func (m *Member) tell(said envelope) {
	if m.link == nil {
		return
	}
	if err := m.link.send(said); err != nil {
		m.link.close()
	}
}

// takeBatch: what is not what was announced is the end of the handoff.
func (m *Member) takeBatch(told *fds, arrived []int) {
	items, err := m.bundles.take(told, arrived)
	if err == nil {
		m.tell(told.ack())
		if told.Last {
			err = m.takeBundle(items)
		}
	}
	if err != nil {
		m.broken(err)
	}
}

// takeBundle takes all of a bundle, or, where something in it cannot be read, closes all.
func (m *Member) takeBundle(items []held) error {
	segments := make([]*segment, len(items))
	given, writable := m.offer, map[uint64]bool{}
	for i, one := range items {
		if one.Role != roleSegment {
			continue
		}
		made, err := openSegment(one.fd, one.Writable)
		if err != nil {
			closeHeld(items)
			return err
		}
		segments[i], writable[made.epoch] = made, made.writable
	}
	if given != nil && (given.Items != uint64(len(items)) || !writable[given.Epoch] || !writable[given.WayBack]) {
		closeHeld(items)
		return fault("ERR_FDB_FDS_MISSING", "the offer is not whole")
	}
	for i, one := range items {
		switch one.Role {
		case roleListener, roleNamed:
			m.keep(one)
		case roleSegment:
			m.putSegment(segments[i])
		case rolePidfd:
			m.pidfds = append(m.pidfds, one.fd)
		default:
			closeAll([]int{one.fd})
		}
	}
	if given == nil {
		m.prune()
		m.follow()
		return nil
	}
	m.offer = nil
	m.step(event{Type: "message", Message: &order{
		Kind: "offer", Epoch: int64(given.Epoch), WayBack: int64(given.WayBack), Source: int64(given.Source),
	}})
	return nil
}

func (m *Member) keep(one held) {
	if before, ok := m.registry[one.Name]; ok {
		closeAll([]int{before.fd})
	}
	m.registry[one.Name] = one
}

// putSegment owns the segment. One that may be written takes the place of the same that may only be read.
func (m *Member) putSegment(s *segment) {
	present := m.segments[s.epoch]
	switch {
	case present == nil:
		m.segments[s.epoch] = s
	case s.writable && !present.writable && s.snapshot == present.snapshot:
		present.close()
		present.fd, present.writable = s.fd, true
	default:
		s.close()
	}
	m.step(event{Type: "shared", Top: int64(s.epoch)})
}

// prune closes segments without a reader: sealed, empty, and not the one that this process wrote in last. A daemon that is
// killed leaves one behind each time.
func (m *Member) prune() {
	for epoch, one := range m.segments {
		if int64(epoch) != m.state.Epoch && m.log.forget(one) {
			delete(m.segments, epoch)
			m.pruned = max(m.pruned, epoch+1)
			one.close()
		}
	}
}

// within is a context for what the holder must answer.
func within(limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), limit)
}
