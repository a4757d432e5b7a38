//go:build linux

package fdbroker

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Changes of a member in Go while another process serves, and its way to the daemon: against a daemon that the test plays,
// over a real socket.

const testLimit = 20 * time.Second

// played is a daemon that says what the test has it say.
type played struct {
	t         *testing.T
	control   string
	listening *net.UnixListener
}

func playDaemon(t *testing.T) *played {
	t.Helper()
	// Not t.TempDir, whose path has the name of the test: that of a socket has at most 107 bytes.
	folder, err := os.MkdirTemp("", "fdb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	control := filepath.Join(folder, "d.sock")
	listening, err := net.ListenUnix("unix", &net.UnixAddr{Name: control, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listening.Close() })
	return &played{t, control, listening}
}

// playedLink is one connection of it.
type playedLink struct {
	*channel
	t        *testing.T
	messages []message
}

func (p *played) welcome() (*playedLink, *hello) {
	p.t.Helper()
	p.listening.SetDeadline(time.Now().Add(testLimit))
	conn, err := p.listening.AcceptUnix()
	if err != nil {
		p.t.Fatal(err)
	}
	link := &playedLink{channel: newChannel(conn), t: p.t}
	p.t.Cleanup(link.release)
	said := link.hear("hello", func(m message) bool { return m.Hello != nil })
	link.say(envelope{Welcome: &welcome{Version: 1, Capabilities: []string{"writes"}, Daemon: true, Incarnation: "a"}})
	return link, said.Hello
}

func (l *playedLink) say(said envelope) {
	if err := l.send(said); err != nil {
		l.t.Error(err)
	}
}

// hear gives the next message, which must be of that kind, or a heartbeat before it.
func (l *playedLink) hear(what string, is func(message) bool) message {
	l.t.Helper()
	l.conn.SetReadDeadline(time.Now().Add(testLimit))
	for {
		for len(l.messages) > 0 {
			one := l.messages[0]
			l.messages = l.messages[1:]
			closeAll(one.fds)
			if is(one) {
				return one
			}
			if one.Heartbeat == nil {
				l.t.Fatalf("%+v instead of %s", one.envelope, what)
			}
		}
		got, err := l.receive()
		if err != nil {
			l.t.Fatalf("no %s: %v", what, err)
		}
		l.messages = append(l.messages, got...)
	}
}

func (l *playedLink) write() *write {
	l.t.Helper()
	return l.hear("Write", func(m message) bool { return m.Write != nil }).Write
}

func (l *playedLink) answer(asked *write, outcome uint64, sequence float64) {
	l.say(envelope{Written: &written{Number: asked.Number, Outcome: outcome, Sequence: sequence, Code: "ERR_FDB_SCHEMA"}})
}

// author stood by in epoch 3, and the process that serves writes in epoch 4.
type author struct {
	*Member
	t       *testing.T
	daemon  *played
	link    *playedLink
	counter *Section[int]
}

func recordOf(epoch, sequence uint64, request string, value int, schemas ...sectionSchema) []byte {
	put := change{Section: "counter", Key: "n", Value: []byte(strconv.Itoa(value)), Version: 1}
	return stateFrame(marshal(&record{
		Epoch: epoch, Sequence: sequence, Request: request, Changes: []change{put}, Schemas: schemas,
	}))
}

func newAuthor(t *testing.T) *author {
	t.Helper()
	daemon := playDaemon(t)
	a := &author{Member: newMember(daemon.control, "shop", Options{}), t: t, daemon: daemon}
	t.Cleanup(func() { a.Close() })
	var err error
	if a.counter, err = OpenSection(a.Member, "counter", JSON[int](), Schema{}); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	a.state.Phase, a.state.Holds, a.state.Epoch = "standby", true, 3
	first := recordOf(3, 1, "", 5, a.sections["counter"])
	for epoch, data := range map[uint64][]byte{3: append(segmentBytes(3), first...), 4: segmentBytes(4), 5: segmentBytes(5)} {
		s, err := openSegment(memfd(t, data, epoch == 3), true)
		if err != nil {
			t.Fatal(err)
		}
		a.putSegment(s)
	}
	a.follow()
	a.mu.Unlock()
	said := &hello{}
	if a.link, said = daemon.welcome(); said.Intent != intentDraining || said.Top != 5 {
		t.Errorf("%+v", said)
	}
	return a
}

type outcome struct {
	n   int
	err error
}

func (a *author) update(limit time.Duration) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		n, err := a.counter.Update(ctx, "n", func(n int, _ bool) (int, error) { return n + 1, nil })
		done <- outcome{n, err}
	}()
	return done
}

func (a *author) await(done <-chan outcome) outcome {
	a.t.Helper()
	select {
	case got := <-done:
		return got
	case <-time.After(testLimit):
		a.t.Fatal("it does not return")
		return outcome{}
	}
}

// asked is the Write that comes, which must be of this value.
func (a *author) asked(value int) *write {
	a.t.Helper()
	asked := a.link.write()
	var one record
	if err := unmarshal(asked.Parts[len(asked.Parts)-1], &one, mostRecordFields); err != nil {
		a.t.Fatal(err)
	}
	if string(one.Changes[0].Value) != strconv.Itoa(value) || asked.Request == "" {
		a.t.Errorf("asks for %+v, not for %d", one, value)
	}
	return asked
}

// made has the process that serves write.
func (a *author) made(sequence uint64, value int, request string) {
	a.mu.Lock()
	s := a.segments[4]
	a.mu.Unlock()
	size, _ := sizeOf(s.fd)
	if _, err := syscall.Pwrite(s.fd, recordOf(4, sequence, request, value), size); err != nil {
		a.t.Fatal(err)
	}
}

func (a *author) serveAgain() {
	a.mu.Lock()
	defer a.mu.Unlock()
	seal(a.t, a.segments[4].fd)
	a.order("reinstate", 5)
}

func TestTheStateIsReadAgainFromASnapshotOfSegmentsThatWereNotThere(t *testing.T) {
	a := newAuthor(t)
	a.mu.Lock()
	defer a.mu.Unlock()
	merged := recordOf(7, 9, "", 70, a.sections["counter"])
	var sum digest
	sum.add("counter", "n", []byte("70"))
	last := stateFrame(marshal(&record{Epoch: 7, Sequence: 9, End: &end{Entries: 1, Digest: sum.String()}}))
	snapshot := stateFrame(marshal(&header{Magic: "fdb-state", Format: 1, Epoch: 7, Kind: 1}))
	items := []held{}
	for _, data := range [][]byte{append(append(snapshot, merged...), last...), append(segmentBytes(8), recordOf(8, 10, "", 71)...)} {
		items = append(items, held{item{Role: roleSegment, Epoch: uint64(7 + len(items))}, memfd(t, data, len(items) == 0)})
	}
	drain := a.drain
	a.mu.Unlock()
	err := drain.take(items)
	a.mu.Lock()
	if got := string(a.log.section("counter").entries["n"].value); err != nil || got != "71" || len(a.segments) != 2 {
		t.Errorf("%s with %d segments: %v", got, len(a.segments), err)
	}
}

func TestAChangeElsewhereReturnsWhenItIsSeen(t *testing.T) {
	a := newAuthor(t)
	done := a.update(testLimit)
	asked := a.asked(6)
	if len(asked.Reads) != 1 || string(asked.Reads[0].Mark) != string(markOf(entry{[]byte("5"), 1})) {
		t.Errorf("has read %+v", asked.Reads)
	}
	a.made(2, 6, asked.Request)
	a.link.answer(asked, outcomeApplied, 2)
	if got := a.await(done); got.n != 6 || got.err != nil {
		t.Errorf("%+v", got)
	}
}

func TestAChangeKeepsItsRequestWhenItIsSentAgain(t *testing.T) {
	a := newAuthor(t)
	done := a.update(testLimit)
	first := a.asked(6)
	a.link.answer(first, outcomeAgain, 0)
	a.link, _ = a.daemon.welcome()
	second := a.asked(6)
	a.link.release()
	a.link, _ = a.daemon.welcome()
	third := a.asked(6)
	if first.Request != second.Request || first.Request != third.Request {
		t.Errorf("%s, then %s, then %s", first.Request, second.Request, third.Request)
	}
	a.link.answer(third, outcomeConflict, 2)
	a.made(2, 70, "")
	fourth := a.asked(71)
	if fourth.Request != first.Request || string(fourth.Reads[0].Mark) != string(markOf(entry{[]byte("70"), 1})) {
		t.Errorf("%+v", fourth)
	}
	a.link.answer(fourth, outcomeRefused, 0)
	if got := a.await(done); !errors.Is(got.err, ErrSchema) {
		t.Errorf("%+v", got)
	}
}

func TestAConflictWithoutAnythingNewIsNotTriedAgainAtOnce(t *testing.T) {
	a := newAuthor(t)
	a.update(time.Second)
	tries := 0
	for until := time.Now().Add(300 * time.Millisecond); time.Now().Before(until); tries++ {
		a.link.answer(a.asked(6), outcomeConflict, 1)
	}
	if tries > 6 {
		t.Errorf("%d tries", tries)
	}
}

func TestAChangeThatWaitsIsMadeHereWhenThisProcessServesAgain(t *testing.T) {
	a := newAuthor(t)
	all := []<-chan outcome{a.update(testLimit), a.update(testLimit), a.update(testLimit)}
	var requests []string
	for range all {
		requests = append(requests, a.link.write().Request)
	}
	a.serveAgain()
	var counts []int
	for _, done := range all {
		got := a.await(done)
		if got.err != nil {
			t.Error(got.err)
		}
		counts = append(counts, got.n)
	}
	sort.Ints(counts)
	if len(counts) != 3 || counts[0] != 6 || counts[2] != 8 {
		t.Errorf("counted %v", counts)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, request := range requests {
		if !a.log.knows(request) {
			t.Errorf("%s is not in the log", request)
		}
	}
	if a.state.Phase != "serving" || a.log.sequence != 4 {
		t.Errorf("%s at %d", a.state.Phase, a.log.sequence)
	}
}

func TestAChangeThatWasMadeWithoutAnAnswerIsNotMadeAgainHere(t *testing.T) {
	a := newAuthor(t)
	done := a.update(testLimit)
	a.made(2, 6, a.asked(6).Request)
	a.made(3, 50, "")
	a.serveAgain()
	if got := a.await(done); got.n != 6 || got.err != nil {
		t.Errorf("%+v", got)
	}
	if n, _, _ := a.counter.Get("n"); n != 50 || a.Position().Sequence != 3 {
		t.Errorf("%d at %+v", n, a.Position())
	}
}

func TestAChangeWhoseTimeIsOverMayHaveBeenMadeIfItWasSent(t *testing.T) {
	a := newAuthor(t)
	done := a.update(200 * time.Millisecond)
	a.asked(6)
	if got := a.await(done); !errors.Is(got.err, ErrDeadline) {
		t.Errorf("sent: %+v", got)
	}
	a.link.release()
	a.mu.Lock()
	if channel := a.drain.channel; channel != nil {
		a.drain.drop(channel)
	}
	a.mu.Unlock()
	if got := a.await(a.update(100 * time.Millisecond)); !errors.Is(got.err, ErrFenced) {
		t.Errorf("not sent: %+v", got)
	}
}

func TestTheLast65536RequestsAreKnown(t *testing.T) {
	log := newStateLog()
	for n := 0; n < mostRequests+4; n++ {
		log.remember("r" + strconv.Itoa(n))
	}
	for n, known := range map[int]bool{0: false, 3: false, 4: true, mostRequests + 3: true} {
		if log.knows("r"+strconv.Itoa(n)) != known {
			t.Errorf("request %d known: %v", n, !known)
		}
	}
}

func TestPiecesOfChangesAreBounded(t *testing.T) {
	in := newIncoming()
	var made [][][]byte
	make := func(_ *write, parts [][]byte) (*written, error) {
		made = append(made, parts)
		return &written{Outcome: outcomeApplied}, nil
	}
	piece := func(n uint64, more bool) *written {
		return in.take(&write{Number: n, Source: n, Request: "r", Parts: [][]byte{[]byte("x")}, More: more}, make)
	}
	for n := uint64(0); n < mostArriving; n++ {
		if answer := piece(n, true); answer != nil {
			t.Fatalf("%d: %+v", n, answer)
		}
	}
	if answer := piece(mostArriving, true); answer == nil || answer.Outcome != outcomeAgain {
		t.Errorf("one more: %+v", answer)
	}
	// The member ignores bytes behind the answer.
	if answer := piece(mostArriving, false); answer != nil {
		t.Errorf("its rest: %+v", answer)
	}
	if answer := piece(0, false); answer == nil || answer.Outcome != outcomeApplied || len(made) != 1 || len(made[0]) != 2 {
		t.Errorf("another: %+v, made %v", answer, made)
	}
	large := &write{Number: 9, Request: "r", Parts: [][]byte{[]byte(strings.Repeat("x", 9<<20))}, More: true}
	if answer := in.take(large, make); answer != nil {
		t.Errorf("half: %+v", answer)
	}
	if answer := in.take(large, make); answer == nil || answer.Code != "ERR_FDB_STATE_LIMIT" {
		t.Errorf("too large: %+v", answer)
	}
}

// linked has a member whose link to the daemon the test plays.
func linked(t *testing.T, phase string) (*Member, *playedLink, *played) {
	t.Helper()
	daemon := playDaemon(t)
	m := newMember(daemon.control, "shop", Options{})
	t.Cleanup(func() { m.Close() })
	ours, theirs := channels(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Phase, m.state.Holds, m.state.Epoch = phase, true, 1
	m.attach(ours, &greeting{welcome: &welcome{Incarnation: "a"}, pidfd: -1})
	m.settled = ours
	return m, &playedLink{channel: theirs, t: t}, daemon
}

func TestAJoinerThatIsBackBeforeItIsKnownWhetherTheDaemonLivesDoesNotGiveUp(t *testing.T) {
	m, link, daemon := linked(t, "ready")
	link.release()
	link, said := daemon.welcome()
	if said.Intent != intentBack {
		t.Errorf("%+v", said)
	}
	told := link.hear("Fds", func(m message) bool { return m.Fds != nil }).Fds
	link.say(told.ack())
	link.hear("Back", func(m message) bool { return m.Back != nil })
	select {
	case <-m.Retired():
		t.Errorf("it has left: %v", m.Err())
	case <-time.After(2 * grace):
	}
}

func TestADaemonThatBeatsSlowlyIsNotSilent(t *testing.T) {
	m := newMember("/nowhere", "shop", Options{})
	t.Cleanup(func() { m.Close() })
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.silence() != 3*time.Second {
		t.Error(m.silence())
	}
	m.holder = &welcome{HeartbeatMs: 2000}
	if m.silence() != 6*time.Second {
		t.Error(m.silence())
	}
}

func TestNoHeartbeatsPileUpInFrontOfADaemonThatIsStopped(t *testing.T) {
	ours, _ := channels(t)
	for range make([]struct{}, 3000) {
		if err := ours.beat(heartbeat{Healthy: true}); err != nil {
			t.Fatal(err)
		}
	}
	for until := time.Now().Add(testLimit); ; {
		ours.mu.Lock()
		waits := len(ours.queue)
		ours.mu.Unlock()
		if waits == 0 {
			break
		}
		if time.Now().After(until) {
			t.Fatal("it does not send")
		}
		time.Sleep(time.Millisecond)
	}
	if ours.unread() > 60<<10 {
		t.Errorf("%d bytes wait", ours.unread())
	}
	if err := ours.send(envelope{Status: &status{JSON: strings.Repeat("x", 60_000)}}); err != nil {
		t.Error(err)
	}
}

func TestOneThatLeavesSaysSoInEveryPhase(t *testing.T) {
	for phase, gone := range map[string]bool{
		"joining": false, "ready": false, "serving": true, "frozen": true, "standby": true, "orphan": true, "unfit": true,
	} {
		m, link, _ := linked(t, phase)
		m.Close()
		said := link.hear("a farewell", func(m message) bool { return m.Gone != nil || m.Abort != nil })
		if (said.Gone != nil) != gone || m.Phase() != "gone" {
			t.Errorf("%s: %+v, then %s", phase, said.envelope, m.Phase())
		}
	}
}
