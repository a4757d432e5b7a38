//go:build linux

package fdbroker

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

const (
	defaultDrain = 30 * time.Second
	// lastLimit is how much of the ordered time is kept at most for connections that remain after the leaving; of a short time half.
	lastLimit = 5 * time.Second
	// leastLimit: the last requests get this time even if less was ordered.
	leastLimit = 500 * time.Millisecond
	// handoffLook: a handoff that has failed shows in its segments, which nothing tells.
	handoffLook = 50 * time.Millisecond
)

// endOrder has the orders to end this process. The earliest end counts, so a later order can only shorten the time.
type endOrder struct {
	given bool
	// keepsRight: the version that stands by must not serve again instead of this one. One order is enough.
	keepsRight     bool
	leaveAt, endAt time.Time
}

func (o *endOrder) give(limit time.Duration) {
	now := time.Now()
	if !o.given || now.Add(limit).Before(o.endAt) {
		o.endAt = now.Add(limit)
		leaveAt := now.Add(max(limit-min(limit/2, lastLimit), leastLimit))
		if !o.given || leaveAt.Before(o.leaveAt) {
			o.leaveAt = leaveAt
		}
	}
	o.given = true
}

// lastRequests are those of a process that leaves its daemon without a successor. When it has left, it writes no more: a request that changes
// the state would wait for a next version. So these requests are answered before. Everything here needs the member's lock.
type lastRequests struct {
	m     *Member
	order endOrder
	// begun: this process accepts no more, and waits until the application closes the member.
	begun bool
	// endsWork: once-only work has ended for good.
	endsWork bool
	// rollsBack: the work has ended, and the daemon is asked to let the version that stands by take over.
	rollsBack       bool
	rollbacks       []uint64
	standbyReleased bool
	// leavesItself: no other version has taken over.
	leavesItself bool
	running      bool
}

// leave leaves within the limit.
func (l *lastRequests) leave(limit time.Duration, handBack bool) {
	if l.m.state.over() {
		return
	}
	l.order.keepsRight = l.order.keepsRight || !handBack
	l.order.give(limit)
	l.runOnce()
}

// rollBack leaves to the version that stands by, and serves on if that one can serve no more.
func (l *lastRequests) rollBack(request uint64) {
	if !l.standsBy() {
		l.answerRollback(request, l.noStandby())
		return
	}
	l.rollbacks = append(l.rollbacks, request)
	l.runOnce()
}

// standsBy is true until the daemon reports that no version stands by any more, which may be a moment late.
func (l *lastRequests) standsBy() bool {
	return l.m.state.in("serving", "leaving") && !l.m.first() && !l.standbyReleased
}

func (l *lastRequests) serves() bool  { return l.m.state.in("beginning", "serving", "frozen") }
func (l *lastRequests) accepts() bool { return l.m.state.in("beginning", "serving", "unfit") }

// mayLoseUnheard: a daemon to which this process has no link can give the right to another process. The daemon accepts no new joiner then.
func (l *lastRequests) mayLoseUnheard() bool { return l.standsBy() || l.hasJoiner() }

func (l *lastRequests) isHandingOver() bool { return !l.m.state.Down && l.hasJoiner() }

// hasJoiner: the daemon shares the two segments of a handoff before it makes the Offer, and seals them if the handoff fails. A single one may be
// left of the handoff to this process.
func (l *lastRequests) hasJoiner() bool {
	state := l.m.state
	if !state.in("beginning", "serving", "frozen", "unfit") {
		return false
	}
	later := 0
	for epoch, one := range l.m.segments {
		if int64(epoch) > state.Epoch && !one.sealed() {
			later++
		}
	}
	return later > 1
}

// isTaken reports whether another process takes the requests. A standby does so only if a daemon lives that gives the right to it.
func (l *lastRequests) isTaken() bool {
	return l.isHandingOver() || (!l.order.keepsRight && l.standsBy() && !l.m.state.Down)
}

func (l *lastRequests) runOnce() {
	l.m.notify()
	if !l.running {
		l.running = true
		go l.run()
	}
}

func (l *lastRequests) run() {
	m := l.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if !l.order.given {
		l.handBack()
	}
	if l.order.given {
		l.finishWork()
		for l.serves() && !l.isTaken() && l.answer() {
			l.finishWork()
		}
		if m.state.joining() && m.reason == nil {
			m.reason = fault("ERR_FDB_CLOSED", "the application closed this member before it served")
		}
		l.leavesItself = true
		m.step(event{Type: "leave"})
	}
	l.running = false
}

// answer returns when another process takes the requests, or when this process must leave to end in time, with whether a next version has joined.
// The daemon keeps the listeners, whose clients wait.
func (l *lastRequests) answer() bool {
	l.begun = true
	for _, one := range l.m.listeners {
		one.Close()
	}
	l.m.notify()
	l.until(func() bool { return l.isTaken() || !l.serves() }, 0)
	return l.isHandingOver()
}

// finishWork waits for a running handoff first, because its successor may serve afterwards.
func (l *lastRequests) finishWork() {
	l.until(func() bool { return !l.isHandingOver() }, 0)
	if !l.serves() && l.m.state.Phase != "unfit" {
		return
	}
	if l.order.keepsRight && !l.standbyReleased {
		l.standbyReleased = true
		l.m.tell(envelope{EndProbation: &endProbation{Closing: true}})
	}
	l.endWork()
}

func (l *lastRequests) endWork() {
	m := l.m
	if m.state.Phase != "serving" {
		return
	}
	l.endsWork = true
	ended := m.endWork()
	l.until(func() bool { return hasClosed(ended) }, orElse(m.options.Times.Quiesce, defaultQuiesce))
}

// handBack does not leave by itself: the daemon may just have released this process, and then no process would serve.
func (l *lastRequests) handBack() {
	m := l.m
	l.until(func() bool { return !l.isHandingOver() || l.order.given }, 0)
	l.endWork()
	l.rollsBack = true
	asked := time.Now()
	m.beatNow()
	// A daemon of a release that does not know the order lets the standby take over when the health has been bad for so long.
	limit := 2 * (m.silence() + m.every())
	l.until(func() bool { return !l.accepts() || !l.standsBy() || l.order.given }, limit)
	l.rollsBack = false
	// The probation may have ended, and a version that waited for that may have joined: if its handoff fails, this process serves on.
	l.until(func() bool { return l.m.state.Phase != "frozen" || l.order.given }, 0)
	if !l.accepts() || l.order.given {
		return
	}
	failure := l.noStandby()
	if l.standsBy() {
		why := "the version that stands by has not taken over within %v, so process %d serves on"
		failure = passing("ERR_FDB_DEADLINE", why, time.Since(asked).Round(time.Millisecond), os.Getpid())
	}
	l.endsWork = false
	m.resume()
	m.beatNow()
	l.answerRollbacks(failure)
}

// onLeft is called before the link ends. After an order to stop no other version serves instead, unless it had taken over before.
func (l *lastRequests) onLeft() {
	if l.order.keepsRight && l.leavesItself {
		l.answerRollbacks(l.noStandby())
	} else {
		l.answerRollbacks(nil)
	}
}

func (l *lastRequests) noStandby() *Error {
	return fault("ERR_FDB_NO_STANDBY", "no version stands by for process %d", os.Getpid())
}

func (l *lastRequests) answerRollbacks(failure *Error) {
	requests := l.rollbacks
	l.rollbacks = nil
	for _, request := range requests {
		l.answerRollback(request, failure)
	}
}

func (l *lastRequests) answerRollback(request uint64, failure *Error) {
	reply := commandReply{Request: request}
	if failure == nil {
		reply.OK, reply.Body = true, l.m.processReply()
	} else {
		reply.Code, reply.Message, reply.Retryable = failure.Code, failure.Message, failure.Retryable
	}
	l.m.tell(envelope{CommandReply: &reply})
}

// until returns when holds returns true, after the limit (0: none), or when this process must leave to end in time.
func (l *lastRequests) until(holds func() bool, limit time.Duration) {
	latest := time.Now().Add(limit)
	for !l.m.over && !holds() {
		now := time.Now()
		if (limit > 0 && !now.Before(latest)) || (l.order.given && !now.Before(l.order.leaveAt)) {
			return
		}
		pause := handoffLook
		if limit > 0 {
			pause = min(pause, latest.Sub(now))
		}
		if l.order.given {
			pause = min(pause, l.order.leaveAt.Sub(now))
		}
		l.m.awaitChangeFor(pause)
	}
}

func hasClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// processReply is the reply to an order: the process that executes it.
func (m *Member) processReply() []byte {
	return []byte(fmt.Sprintf(`{"pid":%d,"generation":%d}`, os.Getpid(), m.generation))
}

// orderedLimit is the time of a stop; without one that of [Options].
func (m *Member) orderedLimit(body []byte) time.Duration {
	var ordered struct {
		TimeoutMs *float64 `json:"timeoutMs"`
	}
	if json.Unmarshal(body, &ordered) != nil || ordered.TimeoutMs == nil || *ordered.TimeoutMs < 0 {
		return m.drainLimit()
	}
	return time.Duration(min(*ordered.TimeoutMs, maxOrderedMs)) * time.Millisecond
}

// maxOrderedMs is longer than any process lives.
const maxOrderedMs = 1e12

func (m *Member) drainLimit() time.Duration { return orElse(m.options.Drain, defaultDrain) }
