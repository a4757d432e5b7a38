//go:build linux

package fdbroker

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const goarch = runtime.GOARCH

func channels(t *testing.T) (*channel, *channel) {
	t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var made [2]*channel
	for i, fd := range pair {
		file := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		made[i] = newChannel(conn.(*net.UnixConn))
		t.Cleanup(made[i].close)
	}
	return made[0], made[1]
}

func open(t *testing.T, path string) int {
	t.Helper()
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func isOpen(fd int) bool {
	var found syscall.Stat_t
	return syscall.Fstat(fd, &found) == nil
}

// descriptors of this process that are open now.
func descriptors(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + one.Name()); err == nil {
			all[one.Name()] = to
		}
	}
	return all
}

func TestManyDescriptorsArriveInOrderAndAreWhoTheyWere(t *testing.T) {
	a, b := channels(t)
	listening, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Close()
	file, err := listening.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	null := open(t, "/dev/null")
	defer syscall.Close(null)
	const many = 600
	var given []int
	var items []item
	for n := 0; n < many; n++ {
		fd := null
		if n%2 == 0 {
			fd = int(file.Fd())
		}
		is, err := identityOf(fd)
		if err != nil {
			t.Fatal(err)
		}
		given, items = append(given, fd), append(items, item{Role: roleNamed, Name: strconv.Itoa(n), Identity: is})
	}
	if err := a.send(envelope{Fds: &fds{Last: true, Items: items}}, given...); err != nil {
		t.Fatal(err)
	}
	var got []message
	for len(got) == 0 {
		if got, err = b.receive(); err != nil {
			t.Fatal(err)
		}
	}
	arrived := got[0].fds
	if err := verify(got[0].Fds.Items, arrived); err != nil {
		t.Error(err)
	}
	for _, fd := range arrived {
		if flags, _, _ := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0); flags&syscall.FD_CLOEXEC == 0 {
			t.Fatalf("descriptor %d is not close-on-exec", fd)
		}
	}
	arrived[0], arrived[1] = arrived[1], arrived[0]
	if err := verify(got[0].Fds.Items, arrived); !errors.Is(err, ErrMismatch) {
		t.Errorf("exchanged: %v", err)
	}
	closeAll(arrived)
	a.finish()
	if _, err := b.receive(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestOneListenerIsNotTakenForAnother(t *testing.T) {
	spec, err := parseSpec("tcp://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var both [2]*identity
	for i := range both {
		fd, err := bind(spec)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(fd)
		if both[i], err = identityOf(fd); err != nil {
			t.Fatal(err)
		}
	}
	if why := difference(both[0], both[1]); why != "it is another socket" {
		t.Errorf("got %q", why)
	}
	deaf := *both[0]
	deaf.Accepting = false
	if difference(&deaf, both[0]) == "" {
		t.Error("one that accepts was taken for one that does not")
	}
}

func alone(t *testing.T) *Member {
	t.Helper()
	m := newMember("/nowhere", "shop", Options{})
	t.Cleanup(func() { m.Close() })
	return m
}

func segmentBytes(epoch uint64) []byte {
	return stateFrame(marshal(&header{Magic: stateMagic, Format: stateFormat, Epoch: epoch}))
}

// announced is what a holder says of these descriptors.
func announced(t *testing.T, last bool, role uint64, given ...int) *fds {
	t.Helper()
	told := &fds{Last: last, Bundle: 1}
	for n, fd := range given {
		is, err := identityOf(fd)
		if err != nil {
			t.Fatal(err)
		}
		told.Items = append(told.Items, item{Role: role, Name: strconv.Itoa(n), Identity: is})
	}
	return told
}

func TestABundleWithABadSegmentLeavesNothingOpen(t *testing.T) {
	before := descriptors(t)
	m := alone(t)
	m.mu.Lock()
	good, bad, null := memfd(t, segmentBytes(3), false), memfd(t, []byte("GET / HTTP/1.1\r\n"), false), open(t, "/dev/null")
	told := announced(t, true, roleSegment, good, bad, null)
	told.Items[2].Role = roleListener
	m.takeBatch(told, []int{good, bad, null})
	if m.state.Phase != "gone" || m.reason.Code != "ERR_FDB_STATE_FORMAT" {
		t.Errorf("is %s, %v", m.state.Phase, m.reason)
	}
	m.mu.Unlock()
	m.Close()
	for fd, to := range descriptors(t) {
		if before[fd] != to {
			t.Errorf("%s is still open", to)
		}
	}
}

func TestWhatHasComeOfABundleIsClosedWhenItsRestDoesNot(t *testing.T) {
	m := alone(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	fd := open(t, "/dev/null")
	m.takeBatch(announced(t, false, roleNamed, fd), []int{fd})
	if !isOpen(fd) {
		t.Fatal("it was not kept")
	}
	m.lose()
	if isOpen(fd) {
		t.Error("it is still open")
	}
}

func TestASegmentThatIsSealedIsNotWritten(t *testing.T) {
	fd := memfd(t, segmentBytes(3), false)
	s, err := openSegment(fd, true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	m := alone(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.log.adopt(s); err != nil {
		t.Fatal(err)
	}
	m.writing = s
	one := record{Request: "r", Changes: []change{{Section: "s", Key: "k", Value: []byte("v"), Version: 1}}}
	if done, err := m.append(one, nil); !done || err != nil {
		t.Fatalf("%v, %v", done, err)
	}
	other, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	reader := newStateLog()
	again, err := openSegment(int(other.Fd()), false)
	if err == nil {
		err = reader.adopt(again)
	}
	if err == nil {
		err = reader.catchUp()
	}
	if err != nil || *reader.position() != *m.log.position() || !reader.knows("r") {
		t.Errorf("read %+v, %v", reader.position(), err)
	}
	seal(t, fd)
	if done, err := m.append(record{Request: "again"}, nil); done || err != nil || m.writing != nil {
		t.Errorf("sealed: %v, %v", done, err)
	}
	m.log.segments = nil
}

func TestSegmentsInWhichNothingWasWrittenAreNotKept(t *testing.T) {
	m := alone(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Epoch = 6
	for epoch := uint64(3); epoch <= 6; epoch++ {
		s, err := openSegment(memfd(t, segmentBytes(epoch), false), true)
		if err != nil {
			t.Fatal(err)
		}
		m.putSegment(s)
		if err := m.writeIn(int64(epoch)); err != nil {
			t.Fatal(err)
		}
		if epoch == 3 {
			if done, err := m.append(record{Request: "r"}, nil); !done || err != nil {
				t.Fatal(done, err)
			}
		}
		if epoch < 6 {
			seal(t, s.fd)
		}
	}
	m.prune()
	if epochs := m.epochs(); len(epochs) != 2 || epochs[0] != 3 || epochs[1] != 6 || len(m.log.segments) != 2 {
		t.Errorf("has %v", epochs)
	}
	if done, err := m.append(record{Request: "s"}, nil); !done || err != nil || m.log.sequence != 2 {
		t.Errorf("%v, %v, %d", done, err, m.log.sequence)
	}
}

func TestALateReinstateInASegmentThatWasDroppedIsNotObeyed(t *testing.T) {
	m := alone(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Phase, m.state.Holds, m.state.Epoch = "standby", true, 3
	for epoch := uint64(3); epoch <= 5; epoch++ {
		s, err := openSegment(memfd(t, segmentBytes(epoch), epoch == 4), true)
		if err != nil {
			t.Fatal(err)
		}
		m.segments[epoch] = s
	}
	m.prune()
	if epochs := m.epochs(); len(epochs) != 2 || epochs[0] != 3 || epochs[1] != 5 {
		t.Errorf("has %v", epochs)
	}
	for epoch, sealed := range map[int64]bool{-1: false, 3: false, 4: true, 5: false, 6: false} {
		if m.sealed(epoch) != sealed {
			t.Errorf("%d sealed: %v", epoch, !sealed)
		}
	}
	// A stopped process reads it late: it is not to accept, and fail to write.
	m.order("reinstate", 4)
	if m.state.Phase != "standby" || m.state.Accepting {
		t.Errorf("%+v", m.state)
	}
}

func TestUpdatesOfSeveralGoroutinesAreEachMadeOnce(t *testing.T) {
	m := alone(t)
	s, err := openSegment(memfd(t, segmentBytes(3), false), true)
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	m.putSegment(s)
	err = m.writeIn(3)
	m.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	counter, err := OpenSection(m, "counter", JSON[int](), Schema{})
	if err != nil {
		t.Fatal(err)
	}
	next := func(n int, _ bool) (int, error) { return n + 1, nil }
	told := make(chan int, 400)
	var all sync.WaitGroup
	for range [8]int{} {
		all.Add(1)
		go func() {
			defer all.Done()
			for range [50]int{} {
				n, err := counter.Update(context.Background(), "n", next)
				if err != nil {
					t.Error(err)
				}
				told <- n
			}
		}()
	}
	all.Wait()
	close(told)
	seen := map[int]bool{}
	for n := range told {
		seen[n] = true
	}
	if n, _, _ := counter.Get("n"); n != 400 || len(seen) != 400 {
		t.Errorf("counted to %d, with %d answers", n, len(seen))
	}
	for range [2]int{} {
		if n, err := counter.Update(context.Background(), "n", next, WithRequest("r")); n != 401 || err != nil {
			t.Error(n, err)
		}
	}
	why := errors.New("no")
	if _, err := counter.Update(context.Background(), "n", func(int, bool) (int, error) { return 0, why }); err != why {
		t.Error(err)
	}
}

func TestAListenerAcceptsWhenItIsItsTurn(t *testing.T) {
	spec, _ := parseSpec("tcp://127.0.0.1:0")
	fd, err := bind(spec)
	if err != nil {
		t.Fatal(err)
	}
	l, err := newListener("web", "tcp://127.0.0.1:0", fd, false)
	syscall.Close(fd)
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	accepted := make(chan error, 2)
	accept := func() {
		conn, err := l.Accept()
		if err == nil {
			conn.Close()
		}
		accepted <- err
	}
	go accept()
	select {
	case <-accepted:
		t.Fatal("it accepted when it was not its turn")
	case <-time.After(20 * time.Millisecond):
	}
	if err := l.turn(true); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	go accept()
	l.turn(false)
	l.Close()
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestSpecs(t *testing.T) {
	for _, spec := range []string{"tcp://127.0.0.1:80", "tcp://*:80?reusePort", "tcp://[::1]:80", "unix:/run/a.sock?mode=0660"} {
		if _, err := parseSpec(spec); err != nil {
			t.Error(err)
		}
	}
	for _, spec := range []string{
		"127.0.0.1:80", "tcp://localhost:80", "tcp://127.0.0.1", "tcp://127.0.0.1:99999", "unix:a.sock", "tcp://127.0.0.1:80?x=1",
	} {
		if _, err := parseSpec(spec); codeOf(err) != "ERR_FDB_SPEC" {
			t.Errorf("%s: %v", spec, err)
		}
	}
}

func TestAPathOnWhichNobodyListensAnyMoreIsBoundAnew(t *testing.T) {
	spec, err := parseSpec("unix:" + filepath.Join(t.TempDir(), "a.sock"))
	if err != nil {
		t.Fatal(err)
	}
	first, err := bind(spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bind(spec); !errors.Is(err, ErrBind) || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("in use: %v", err)
	}
	syscall.Close(first)
	second, err := bind(spec)
	if err != nil {
		t.Fatal(err)
	}
	syscall.Close(second)
}

func TestJoinSaysThatNobodyListens(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := Join(ctx, filepath.Join(t.TempDir(), "none.sock"), "shop", Options{})
	var why *Error
	if !errors.Is(err, ErrControlPath) || !errors.As(err, &why) || !why.Retryable {
		t.Errorf("got %v", err)
	}
}

func TestEveryCodeIsDocumented(t *testing.T) {
	docs, err := os.ReadFile("../../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 20 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, code := range regexp.MustCompile(`"ERR_FDB_[A-Z_]+"`).FindAllString(string(source), -1) {
			if !strings.Contains(string(docs), "`"+strings.Trim(code, `"`)+"`") {
				t.Errorf("%s: %s", file, code)
			}
		}
	}
}

func TestAMemberWithoutADescriptorLeftIsNotTakenForOneWithoutPidfds(t *testing.T) {
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 0, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	if _, err := pidfdOfSelf(); codeOf(err) != "ERR_FDB_NO_DESCRIPTORS" || !errors.Is(err, syscall.EMFILE) {
		t.Errorf("got %v", err)
	}
}
