//go:build linux

package fdbroker

import "time"

// step is what follows from an event: the next state, and what is to be done. With the lock.
func (m *Member) step(e event) {
	before := m.state
	next, effects := stepMember(before, e)
	m.state = next
	if next.Phase != before.Phase {
		m.warn("%s -> %s (epoch %d)", before.Phase, next.Phase, next.Epoch)
	}
	for _, one := range effects {
		err := m.perform(one)
		if err == nil {
			continue
		}
		// Later effects of this step are not done.
		m.warn("%s failed: %v", one.Type, err)
		m.reason = coded(err)
		m.step(event{Type: "failed", Effect: one.Type, Epoch: max(one.Below, one.Epoch)})
		break
	}
	m.notify()
}

// perform does one effect. The effects carry, write and accept may fail.
func (m *Member) perform(e effect) error {
	switch e.Type {
	case "send":
		m.say(e.Message)
	case "accept", "stopAccepting":
		for _, one := range m.listeners {
			if err := one.turn(e.Type == "accept"); err != nil && e.Type == "accept" {
				return err
			}
		}
		if e.Type == "stopAccepting" && m.served {
			m.endWork()
		}
	case "closeListeners":
		m.closeListeners()
	case "quiesce":
		m.quiesce(e.Epoch)
	case "unquiesce":
		m.resume()
	case "freeze":
		m.freeze()
	case "thaw":
		m.paused = false
	case "carry":
		return m.carry(e.Below)
	case "write":
		if err := m.writeIn(e.Epoch); err != nil {
			return err
		}
		m.served = true
		clear(m.givenUp)
		m.resume()
		m.step(event{Type: "begun", Epoch: e.Epoch})
	case "endWriting":
		m.writing, m.paused = nil, false
		m.follow()
	case "judge":
		m.judge()
	case "reconnect":
		if m.lastRequests.mayLoseUnheard() {
			m.endWork()
		}
		m.reconnect()
	case "drain":
		m.lastRequests.onLeft()
		m.endLink()
	case "exit":
		m.end()
	}
	return nil
}

func (m *Member) say(s *said) {
	switch s.Kind {
	case "ready":
		m.beats = true
		m.beatNow()
		told := ready{Position: m.log.position()}
		for name := range m.registry {
			if m.listeners[name] != nil {
				told.Adopted = append(told.Adopted, name)
			}
			if m.listeners[name] == nil || m.elsewhere[name] {
				told.Refused = append(told.Refused, name)
			}
		}
		m.tell(envelope{Ready: &told})
	case "frozen":
		where := m.frozenAt
		if where == nil {
			where = m.log.position()
		}
		m.tell(envelope{Frozen: &at{where}})
	case "prepared":
		m.tell(envelope{Prepared: &at{m.log.position()}})
	case "serving":
		m.beats = true
		m.tell(envelope{Serving: &granted{uint64(s.Epoch)}})
		m.beatNow()
	case "quiesced":
		m.tell(envelope{Quiesced: &granted{uint64(s.Epoch)}})
	case "gone":
		m.tell(envelope{Gone: &empty{}})
	case "abort":
		why := m.why(ErrAborted, "the successor gave up")
		m.tell(envelope{Abort: &abort{why.Code, why.Message, m.state.Phase}})
	case "unfit":
		why := m.why(&Error{Code: "ERR_FDB_UNFIT"}, "it cannot serve")
		m.tell(envelope{Unfit: &unfit{uint64(max(s.Epoch, 0)), why.Code, why.Message}})
	case "back":
		go m.sayBack(m.link, back{
			Role: s.Role, Epoch: uint64(max(s.Epoch, 0)), Sealed: s.Sealed, Top: uint64(max(s.Top, 0)), Unfit: s.Unfit,
		})
	}
}

func (m *Member) freeze() {
	m.paused, m.frozenAt = true, m.log.position()
	epoch := m.state.Epoch
	// The holder's limit decides; this one only keeps the service from waiting for a holder that is stuck.
	m.later(3*orElse(m.options.Times.Freeze, defaultFreeze), func() {
		if m.state.Epoch == epoch {
			m.step(event{Type: "deadline"})
		}
	})
}

// quiesce ends what must run in one process only; Quiesced follows.
func (m *Member) quiesce(epoch int64) {
	ended := m.endWork()
	if hasClosed(ended) {
		m.step(event{Type: "quiesced", Epoch: epoch})
		return
	}
	go func() {
		<-ended
		m.mu.Lock()
		defer m.mu.Unlock()
		m.step(event{Type: "quiesced", Epoch: epoch})
	}()
}

// endWork calls Options.Quiesce, unless it was called already. Returns what is closed when that has returned.
func (m *Member) endWork() <-chan struct{} {
	if m.quiesced {
		return m.workEnded
	}
	ended := make(chan struct{})
	m.quiesced, m.workEnded = true, ended
	if m.options.Quiesce == nil {
		close(ended)
		return ended
	}
	m.hook(func() {
		defer close(ended)
		ctx, cancel := within(orElse(m.options.Times.Quiesce, defaultQuiesce))
		defer cancel()
		m.options.Quiesce(ctx)
	})
	return ended
}

func (m *Member) resume() {
	if !m.quiesced || m.lastRequests.endsWork {
		return
	}
	m.quiesced = false
	if m.options.Resume != nil {
		m.hook(m.options.Resume)
	}
}

// hook runs what the application gave, one after the other, without the lock.
func (m *Member) hook(run func()) {
	before, done := m.hooked, make(chan struct{})
	m.hooked = done
	go func() {
		defer close(done)
		<-before
		run()
	}()
}

// closeListeners lets those accept for a while that the version which serves does not use: clients have come to them in the probation.
func (m *Member) closeListeners() {
	for name, one := range m.listeners {
		switch {
		case m.over || !m.givenUp[name] || one.turn(true) != nil:
			one.Close()
		case !m.lasts[one]:
			m.lasts[one] = true
			go m.closeLast(one)
		}
	}
	for name, one := range m.registry {
		closeAll([]int{one.fd})
		delete(m.registry, name)
	}
}

// closeLast closes a listener when no other process has it any more, behind the clients that wait.
func (m *Member) closeLast(one *Listener) {
	wait(one.done, lastTime)
	one.closeBehindQueue()
	wait(one.done, lastTime)
	one.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.lasts, one)
	m.notify()
}

func wait(over <-chan struct{}, most time.Duration) {
	select {
	case <-over:
	case <-time.After(most):
	}
}

// endLink ends the link: another process serves for good. Later changes of this process go over a connection of their own.
func (m *Member) endLink() {
	if m.link != nil {
		m.link.finish()
		m.link = nil
	}
	m.bundles.close()
	m.beats = false
}

// end lets go of everything but what was read. Idempotent.
func (m *Member) end() {
	if m.over {
		return
	}
	m.over, m.writing = true, nil
	m.endLink()
	m.closeListeners()
	closeAll([]int{m.holderPidfd})
	m.holderPidfd = -1
	m.state.Phase = "gone"
	close(m.ended)
	m.notify()
}

const (
	grace      = 100 * time.Millisecond
	retryPause = 100 * time.Millisecond
	askLimit   = 10 * time.Second
	lastTime   = time.Second
)
