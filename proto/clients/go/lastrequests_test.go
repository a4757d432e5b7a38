//go:build linux

package fdbroker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"testing"
	"time"
)

// A member in Go that leaves, or is rolled back: against a daemon that the test plays, over a real socket.

// worker is a member that writes in epoch 1. worked has what was done to its once-only work.
type worker struct {
	*Member
	t      *testing.T
	link   *playedLink
	daemon *played
	worked chan string
}

func newWorker(t *testing.T, source int64) *worker {
	t.Helper()
	m, link, daemon := linked(t, "serving")
	w := &worker{m, t, link, daemon, make(chan string, 9)}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.options.Quiesce = func(context.Context) { w.worked <- "ended" }
	m.options.Resume = func() { w.worked <- "resumed" }
	m.options.Times = Times{Heartbeat: 20 * time.Millisecond, Silence: 100 * time.Millisecond}
	m.state.Accepting, m.state.Source, m.served, m.beats = true, source, true, true
	w.share(1)
	if err := m.writeIn(1); err != nil {
		t.Fatal(err)
	}
	return w
}

// share gives it segments. With the lock.
func (w *worker) share(epochs ...uint64) {
	for _, epoch := range epochs {
		made, err := openSegment(memfd(w.t, segmentBytes(epoch), false), true)
		if err != nil {
			w.t.Fatal(err)
		}
		w.segments[epoch] = made
	}
}

func (w *worker) order(name, body string) {
	w.link.say(envelope{Command: &command{Name: name, Request: 7, Body: []byte(body)}})
}

func (w *worker) reply() *commandReply {
	w.t.Helper()
	return w.link.hear("CommandReply", func(m message) bool { return m.CommandReply != nil }).CommandReply
}

func (w *worker) gone() {
	w.t.Helper()
	w.link.hear("Gone", func(m message) bool { return m.Gone != nil })
}

func (w *worker) beats(rollsBack bool) {
	w.t.Helper()
	w.link.hear("Heartbeat", func(m message) bool {
		return m.Heartbeat != nil && m.Heartbeat.RollsBack == rollsBack && m.Heartbeat.Healthy != rollsBack
	})
}

func (w *worker) turn(phase string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state.Phase = phase
	w.notify()
}

func (w *worker) ends(limit time.Duration) bool {
	select {
	case <-w.Retired():
		return true
	case <-time.After(limit):
		return false
	}
}

func (w *worker) put() error {
	counter, err := OpenSection(w.Member, "counter", JSON[int](), Schema{})
	if err != nil {
		w.t.Fatal(err)
	}
	return counter.Put(context.Background(), "n", 1)
}

func (w *worker) didWork(told ...string) {
	w.t.Helper()
	for _, one := range told {
		select {
		case did := <-w.worked:
			if did != one {
				w.t.Fatalf("%s instead of %s", did, one)
			}
		case <-time.After(testLimit):
			w.t.Fatalf("not %s", one)
		}
	}
	select {
	case did := <-w.worked:
		w.t.Fatalf("also %s", did)
	case <-time.After(50 * time.Millisecond):
	}
}

func TestALeavingMemberKeepsTheRightToWriteUntilItIsClosed(t *testing.T) {
	w := newWorker(t, 0)
	w.Leave()
	if !w.ends(testLimit) || w.Phase() != "serving" || w.Serving() {
		t.Fatalf("phase %s, serving %v", w.Phase(), w.Serving())
	}
	w.didWork("ended")
	if err := w.put(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Listen(context.Background(), "late", "tcp://127.0.0.1:0"); codeOf(err) != "ERR_FDB_CLOSED" {
		t.Errorf("listens: %v", err)
	}
	w.Close()
	if err := w.put(); codeOf(err) != "ERR_FDB_CLOSED" {
		t.Errorf("writes: %v", err)
	}
}

func TestAMemberLeavesAtTheEndOfTheOrderedTime(t *testing.T) {
	w := newWorker(t, 0)
	w.Leave()
	w.ends(testLimit)
	asked := time.Now()
	for _, ms := range []int{1200, 60_000} {
		w.order("service.stop", fmt.Sprintf(`{"timeoutMs":%d}`, ms))
		w.link.hear("CancelUpgrade", func(m message) bool { return m.CancelUpgrade != nil })
		var told struct{ Generation *int }
		if reply := w.reply(); !reply.OK || json.Unmarshal(reply.Body, &told) != nil || told.Generation == nil {
			t.Fatalf("%+v", reply)
		}
	}
	w.gone()
	if took := time.Since(asked); took < leastLimit || took > 5*time.Second {
		t.Errorf("left after %v", took)
	}
}

func TestAMemberLeavesAtOnceToAVersionThatStandsByIfADaemonLives(t *testing.T) {
	w := newWorker(t, 1)
	w.Leave()
	w.gone()

	w = newWorker(t, 1)
	w.link.release()
	w.mu.Lock()
	ctx, cancel := within(testLimit)
	defer cancel()
	w.await(ctx, func() bool { return w.state.Down })
	w.mu.Unlock()
	w.Leave()
	if !w.ends(testLimit) {
		t.Fatal("it does not end its work")
	}
	if err := w.put(); err != nil {
		t.Error(err)
	}
}

func TestALeavingMemberWaitsForAHandoff(t *testing.T) {
	w := newWorker(t, 0)
	w.mu.Lock()
	w.share(2, 3)
	w.mu.Unlock()
	w.Leave()
	if w.ends(200*time.Millisecond) || !w.Serving() {
		t.Fatal("it does not wait")
	}
	w.mu.Lock()
	for _, epoch := range []uint64{2, 3} {
		seal(t, w.segments[epoch].fd)
	}
	w.mu.Unlock()
	if !w.ends(testLimit) {
		t.Fatal("it waits for a handoff that has failed")
	}
}

func TestAMemberIsRolledBackByTheDaemon(t *testing.T) {
	w := newWorker(t, 1)
	w.order("service.rollback", "")
	w.beats(true)
	if w.Phase() != "serving" {
		t.Errorf("phase %s", w.Phase())
	}
	w.link.say(envelope{Fenced: &empty{}})
	w.gone()
	if reply := w.reply(); !reply.OK {
		t.Errorf("%+v", reply)
	}
	w.didWork("ended")
}

func TestARollbackThatWasDoneWhenAnOrderToStopCameIsAnsweredAsDone(t *testing.T) {
	w := newWorker(t, 1)
	w.order("service.rollback", "")
	w.beats(true)
	w.order("service.stop", `{"timeoutMs":60000}`)
	w.link.hear("CancelUpgrade", func(m message) bool { return m.CancelUpgrade != nil })
	if reply := w.reply(); !reply.OK {
		t.Fatalf("stop: %+v", reply)
	}
	w.link.hear("EndProbation", func(m message) bool { return m.EndProbation != nil })
	w.link.say(envelope{Fenced: &empty{}})
	w.gone()
	if reply := w.reply(); !reply.OK {
		t.Errorf("%+v", reply)
	}
}

func TestAMemberServesOnIfNoVersionTakesOverAtARollback(t *testing.T) {
	for code, released := range map[string]bool{"ERR_FDB_DEADLINE": false, "ERR_FDB_NO_STANDBY": true} {
		w := newWorker(t, 1)
		w.order("service.rollback", "")
		w.beats(true)
		if released {
			w.link.say(envelope{Released: &givenUp{}})
		}
		if reply := w.reply(); reply.Code != code {
			t.Errorf("%+v", reply)
		}
		w.beats(false)
		w.didWork("ended", "resumed")
		if w.Phase() != "serving" {
			t.Errorf("phase %s", w.Phase())
		}
	}
}

func TestAMemberServesOnIfAHandoffThatBeganWhenItWasRolledBackFails(t *testing.T) {
	w := newWorker(t, 1)
	w.order("service.rollback", "")
	w.beats(true)
	w.turn("frozen")
	w.beats(false)
	w.mu.Lock()
	w.lastRequests.standbyReleased = true
	w.mu.Unlock()
	w.turn("serving")
	if reply := w.reply(); reply.Code != "ERR_FDB_NO_STANDBY" {
		t.Errorf("%+v", reply)
	}
	w.didWork("ended", "resumed")
}

func TestAFailureOfARollbackNamesTheTimeThatItTook(t *testing.T) {
	w := newWorker(t, 1)
	w.options.Times = Times{Heartbeat: 20 * time.Millisecond, Silence: time.Minute}
	w.order("service.rollback", "")
	w.beats(true)
	w.turn("frozen")
	w.beats(false)
	w.turn("serving")
	if reply := w.reply(); !regexp.MustCompile(`within \d+(\.\d+)?m?s,`).MatchString(reply.Message) {
		t.Errorf("%+v", reply)
	}
}

func TestAMemberThatLostTheRightToServeEndsItsWork(t *testing.T) {
	w := newWorker(t, 1)
	w.link.say(envelope{Fenced: &empty{}})
	w.gone()
	w.didWork("ended")
}

func TestAMemberWithoutALinkInAProbationEndsItsWork(t *testing.T) {
	w := newWorker(t, 1)
	w.link.release()
	w.didWork("ended")
	w.daemon.welcome()
	w.didWork("resumed")
}

func TestIfTheLinkEndsInAHandoffTheDaemonTellsWhetherTheWorkGoesOn(t *testing.T) {
	w := newWorker(t, 0)
	w.mu.Lock()
	w.share(2, 3)
	w.mu.Unlock()
	w.link.release()
	w.didWork("ended")
	link, _ := w.daemon.welcome()
	w.didWork()
	link.say(envelope{Unquiesce: &empty{}})
	w.didWork("resumed")
}

func TestAMemberWithoutALinkWorksOnIfNoOtherVersionCanServe(t *testing.T) {
	w := newWorker(t, 0)
	w.link.release()
	w.daemon.welcome()
	w.didWork()
}

func TestOrdersAreRefusedWhileAnotherProcessServes(t *testing.T) {
	m, link, _ := linked(t, "standby")
	link.say(envelope{Command: &command{Name: "service.stop", Request: 7}})
	reply := link.hear("CommandReply", func(m message) bool { return m.CommandReply != nil }).CommandReply
	if reply.Code != "ERR_FDB_FENCED" || !reply.Retryable || m.Phase() != "standby" {
		t.Errorf("%+v, then %s", reply, m.Phase())
	}
}

func TestReadyTwiceIsRefused(t *testing.T) {
	if err := newWorker(t, 0).Ready(context.Background()); codeOf(err) != "ERR_FDB_READY_TWICE" {
		t.Error(err)
	}
}

func TestNothingIsSaidBeforeHello(t *testing.T) {
	ours, theirs := channels(t)
	ours.decline(fault("ERR_FDB_NO_DESCRIPTORS", "none is left"))
	if got, err := theirs.receive(); err != io.EOF {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestNoNoticesOfAppendsPileUpInFrontOfADaemonThatIsStopped(t *testing.T) {
	m := newMember("/nowhere", "shop", Options{})
	t.Cleanup(func() { m.Close() })
	ours, _ := channels(t)
	m.mu.Lock()
	m.link, m.followed = ours, true
	for range make([]struct{}, 3000) {
		m.growing = true
		m.tellAppended()
	}
	m.mu.Unlock()
	time.Sleep(100 * time.Millisecond)
	if ours.unread() > 60<<10 {
		t.Errorf("%d bytes wait", ours.unread())
	}
}
