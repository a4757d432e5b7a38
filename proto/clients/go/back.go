//go:build linux

package fdbroker

import (
	"context"
	"sort"
	"time"
)

// judge finds out whether the holder is dead, or has only closed its channel. The channel ends before the pidfd reports the death: wait a moment.
func (m *Member) judge() {
	of := m.last
	m.later(grace, func() {
		// The holder has come back meanwhile: over the new link it is alive.
		if m.last != of {
			return
		}
		fate := "alive"
		if m.holderPidfd >= 0 && hasEnded(m.holderPidfd) {
			fate = "dead"
		}
		m.step(event{Type: "fate", Fate: fate, Sealed: m.sealed(m.state.Epoch)})
	})
}

// reconnect comes back to the daemon, or to the one that is started in its place, as soon as it answers.
func (m *Member) reconnect() {
	m.dropLink()
	m.judge()
	known := m.holder.Incarnation
	with := hello{
		Service: m.service, Intent: intentBack, Generation: uint64(m.generation), Incarnation: known, Times: m.options.Times.wire(),
	}
	go func() {
		for !m.comeBack(with) {
			select {
			case <-m.ended:
				return
			case <-time.After(retryPause):
			}
		}
	}()
}

// comeBack tries once; false: try again.
func (m *Member) comeBack(with hello) bool {
	ctx, cancel := within(askLimit)
	defer cancel()
	once, stop := context.WithCancel(ctx)
	stop()
	link, err := connect(once, m.control)
	if err != nil {
		return false
	}
	got, err := greet(ctx, link, with)
	if err != nil {
		link.release()
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over || m.state.over() {
		got.close()
		link.release()
		return true
	}
	rest := got.rest
	got.rest = nil
	m.attach(link, got)
	restarted, sealed := got.Incarnation != with.Incarnation, m.sealed(m.state.Epoch)
	m.step(event{Type: "reconnected", Restarted: restarted, Sealed: sealed})
	// A restarted daemon first decides which member serves. In a handoff the daemon tells whether the work goes on.
	if !restarted && !sealed && m.state.in("serving") && !m.lastRequests.isHandingOver() {
		m.resume()
	}
	for i, one := range rest {
		if m.link != link {
			closeFds(rest[i:])
			break
		}
		m.hear(one)
	}
	m.notify()
	return true
}

// sayBack sends what is held first: the holder decides when it hears Back.
func (m *Member) sayBack(link *channel, told back) {
	m.bundle.Lock()
	defer m.bundle.Unlock()
	m.mu.Lock()
	items, err := m.holdings()
	m.mu.Unlock()
	defer func() { closeHeld(items) }()
	if err == nil && link != nil {
		if err = m.sendBundle(link, items); err == nil {
			err = link.send(envelope{Back: &told})
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		m.settled = link
		m.notify()
	} else if link != nil {
		m.warn("the holder did not take back what is held: %v", err)
		link.close()
	}
}

// holdings are dups of the listeners that are used, all segments, and the pidfds that were given.
func (m *Member) holdings() ([]held, error) {
	var items []held
	add := func(is item, fd int) error {
		own, err := dup(fd)
		if err == nil {
			items = append(items, held{is, own})
		}
		return err
	}
	for name, one := range m.registry {
		if m.listeners[name] != nil {
			if err := add(item{Role: one.Role, Name: name, Spec: one.Spec}, one.fd); err != nil {
				return items, err
			}
		}
	}
	epochs := m.epochs()
	for _, epoch := range epochs {
		one := m.segments[epoch]
		if err := add(item{Role: roleSegment, Epoch: epoch, Writable: one.writable}, one.fd); err != nil {
			return items, err
		}
	}
	for _, fd := range m.pidfds {
		if err := add(item{Role: rolePidfd}, fd); err != nil {
			return items, err
		}
	}
	return items, nil
}

// epochs of the segments, rising.
func (m *Member) epochs() []uint64 {
	epochs := make([]uint64, 0, len(m.segments))
	for epoch := range m.segments {
		epochs = append(epochs, epoch)
	}
	sort.Slice(epochs, func(i, j int) bool { return epochs[i] < epochs[j] })
	return epochs
}

// sendBundle returns when the holder has verified every descriptor. Without the lock, and not in the goroutine that hears it. Borrows them.
func (m *Member) sendBundle(link *channel, items []held) error {
	m.mu.Lock()
	number := m.number()
	m.mu.Unlock()
	for index := uint64(0); ; index++ {
		batch := items[:min(len(items), fdsPerBatch)]
		items = items[len(batch):]
		told := fds{Index: index, Last: len(items) == 0, Bundle: number}
		var own []int
		for _, one := range batch {
			is, err := identityOf(one.fd)
			if err != nil {
				return err
			}
			one.Identity = is
			told.Items, own = append(told.Items, one.item), append(own, one.fd)
		}
		if err := link.send(envelope{Fds: &told}, own...); err != nil {
			return err
		}
		key := [2]uint64{number, index}
		if err := m.awaitAnswer(link, func() bool { return m.acks[key] }); err != nil {
			return err
		}
		m.mu.Lock()
		delete(m.acks, key)
		m.mu.Unlock()
		if told.Last {
			return nil
		}
	}
}

func (m *Member) number() uint64 {
	m.nextNumber++
	return m.nextNumber
}

// awaitAnswer waits for something that comes over this link.
func (m *Member) awaitAnswer(link *channel, answered func() bool) error {
	ctx, cancel := within(askLimit)
	defer cancel()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.await(ctx, func() bool { return answered() || m.over || m.link != link }); err != nil {
		return passing("ERR_FDB_DEADLINE", "the daemon does not answer")
	}
	if !answered() {
		return passing("ERR_FDB_CHANNEL_CLOSED", "the daemon left before it answered")
	}
	return nil
}
