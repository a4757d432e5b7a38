//go:build linux

package fdbroker

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"
	"unsafe"
)

// The vectors of the project, made by its real codec.
const tests = "../../../test"

func readJSON(t *testing.T, into any, strict bool, path ...string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(append([]string{tests}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if strict {
		decoder.DisallowUnknownFields()
	}
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("%v: %v", path, err)
	}
}

func fromHex(t *testing.T, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func codeOf(err error) string {
	var known *Error
	if errors.As(err, &known) {
		return known.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func TestFrames(t *testing.T) {
	var vectors []struct {
		Name, Bytes, Payload, Error string
		Arriving, Fds               int
	}
	readJSON(t, &vectors, true, "vectors", "frames.json")
	for _, v := range vectors {
		var decoder frameDecoder
		arriving := make([]int, v.Arriving)
		for i := range arriving {
			arriving[i] = -1
		}
		err := decoder.push(fromHex(t, v.Bytes), arriving)
		var payload []byte
		var got []int
		if err == nil {
			payload, got, _, err = decoder.next()
		}
		if codeOf(err) != v.Error {
			t.Errorf("%s: %v, want %q", v.Name, err, v.Error)
		}
		if v.Error != "" || err != nil {
			continue
		}
		if hex.EncodeToString(payload) != v.Payload || len(got) != v.Fds {
			t.Errorf("%s: %x with %d descriptors", v.Name, payload, len(got))
		}
		if made, _ := makeFrame(payload, len(got)); hex.EncodeToString(made) != v.Bytes {
			t.Errorf("%s: made %x", v.Name, made)
		}
	}
}

func TestStreamsOfFrames(t *testing.T) {
	type frame struct {
		Payload string
		Fds     int
	}
	var vectors []struct {
		Name  string
		Reads []struct {
			Bytes    string
			Arriving int
		}
		Frames []frame
		Error  string
	}
	readJSON(t, &vectors, true, "vectors", "streams.json")
	for _, v := range vectors {
		var decoder frameDecoder
		var got []frame
		var taken []int
		arrived := 0
		err := func() error {
			for _, one := range v.Reads {
				var fds []int
				for range make([]struct{}, one.Arriving) {
					arrived++
					fds = append(fds, -arrived)
				}
				if err := decoder.push(fromHex(t, one.Bytes), fds); err != nil {
					return err
				}
				for {
					payload, fds, ok, err := decoder.next()
					if err != nil || !ok {
						if err != nil {
							return err
						}
						break
					}
					got, taken = append(got, frame{hex.EncodeToString(payload), len(fds)}), append(taken, fds...)
				}
			}
			return nil
		}()
		if codeOf(err) != v.Error {
			t.Errorf("%s: %v, want %q", v.Name, err, v.Error)
		}
		if !reflect.DeepEqual(got, v.Frames) && len(got)+len(v.Frames) > 0 {
			t.Errorf("%s: got %v", v.Name, got)
		}
		for i, fd := range taken {
			if fd != -1-i {
				t.Errorf("%s: descriptors %v", v.Name, taken)
			}
		}
	}
}

func TestFramesThatComeInPieces(t *testing.T) {
	one, _ := makeFrame([]byte("one"), 1)
	two, _ := makeFrame([]byte("two"), 0)
	var decoder frameDecoder
	var said []string
	for i, b := range append(one, two...) {
		var arriving []int
		if i == 3 {
			arriving = []int{-9}
		}
		if err := decoder.push([]byte{b}, arriving); err != nil {
			t.Fatal(err)
		}
		for {
			payload, got, ok, err := decoder.next()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			said = append(said, string(payload))
			if (len(got) == 1) != (string(payload) == "one") {
				t.Errorf("%s has descriptors %v", payload, got)
			}
		}
	}
	if !reflect.DeepEqual(said, []string{"one", "two"}) {
		t.Errorf("got %q", said)
	}
}

type messageVector struct {
	Name, Bytes, Error string
	Message            envelope
	DecodeOnly         bool
}

func TestMessages(t *testing.T) {
	var vectors []messageVector
	readJSON(t, &vectors, true, "vectors", "messages.json")
	for _, v := range vectors {
		data := fromHex(t, v.Bytes)
		var got envelope
		err := unmarshal(data, &got, mostEnvelopeFields)
		if codeOf(err) != v.Error {
			t.Errorf("%s: %v, want %q", v.Name, err, v.Error)
		}
		if v.Error != "" {
			continue
		}
		if !reflect.DeepEqual(got, v.Message) {
			t.Errorf("%s: got %+v", v.Name, got)
		}
		if made := marshal(&v.Message); !v.DecodeOnly && !bytes.Equal(made, data) {
			t.Errorf("%s: made %x", v.Name, made)
		}
		for end := 1; end < len(data); end++ {
			var cut envelope
			if err := unmarshal(data[:end], &cut, mostEnvelopeFields); err != nil && codeOf(err) != "ERR_FDB_MESSAGE" {
				t.Errorf("%s, cut at %d: %v", v.Name, end, err)
			}
		}
	}
}

func TestOneOfTwoBodiesCounts(t *testing.T) {
	var got envelope
	two := append(marshal(&envelope{Commit: &granted{4}}), marshal(&envelope{Retire: &givenUp{}})...)
	if err := unmarshal(two, &got, mostEnvelopeFields); err != nil || got.Commit != nil || got.Retire == nil {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestMessagesThatCostTooMuchAreRefused(t *testing.T) {
	many := marshal(&envelope{Fds: &fds{Items: make([]item, mostEnvelopeFields+1)}})
	var got envelope
	if err := unmarshal(many, &got, mostEnvelopeFields); codeOf(err) != "ERR_FDB_MESSAGE" {
		t.Errorf("got %v", err)
	}
}

func memfd(t *testing.T, data []byte, sealed bool) int {
	t.Helper()
	name := []byte("given\x00")
	number := map[string]uintptr{"amd64": 319, "arm64": 279}[goarch]
	if number == 0 {
		t.Skip("the number of memfd_create is not known here for " + goarch)
	}
	fd, _, errno := syscall.Syscall(number, uintptr(unsafe.Pointer(&name[0])), 3, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	if _, err := syscall.Pwrite(int(fd), data, 0); err != nil && len(data) > 0 {
		t.Fatal(err)
	}
	if sealed {
		seal(t, int(fd))
	}
	return int(fd)
}

func seal(t *testing.T, fd int) {
	t.Helper()
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), 1033, fSealWrite); errno != 0 {
		t.Fatal(errno)
	}
}

type givenSegment struct {
	Bytes  string
	Sealed bool
}

type givenEntry struct {
	Value   []byte
	Version uint64
}

type givenSection struct {
	Version, MinReader uint64
	Codec              string
	Secret             bool
	Entries            map[string]givenEntry
}

func sectionsOf(log *stateLog) map[string]givenSection {
	all := map[string]givenSection{}
	for name, of := range log.sections {
		if of.stored == nil {
			continue
		}
		one := givenSection{of.stored.Version, of.stored.MinReader, of.stored.Codec, of.stored.Secret, map[string]givenEntry{}}
		for key, e := range of.entries {
			one.Entries[key] = givenEntry{e.value, e.version}
		}
		all[name] = one
	}
	return all
}

func logOf(t *testing.T, segments []givenSegment) (*stateLog, error) {
	log := newStateLog()
	for _, one := range segments {
		fd := memfd(t, fromHex(t, one.Bytes), one.Sealed)
		t.Cleanup(func() { syscall.Close(fd) })
		s, err := openSegment(fd, false)
		if err == nil {
			err = log.adopt(s)
		}
		if err != nil {
			return log, err
		}
	}
	return log, log.catchUp()
}

func TestDigestsAndLogs(t *testing.T) {
	var vectors []struct {
		Name     string
		Entries  [][3]string
		Digest   string
		Segments []givenSegment
		Position position
		Sections map[string]givenSection
		Error    string
	}
	readJSON(t, &vectors, true, "vectors", "state.json")
	for _, v := range vectors {
		if v.Digest != "" {
			var got digest
			for _, e := range v.Entries {
				got.add(e[0], e[1], []byte(e[2]))
			}
			if got.String() != v.Digest {
				t.Errorf("%s: %s", v.Name, got)
			}
			continue
		}
		log, err := logOf(t, v.Segments)
		if codeOf(err) != v.Error {
			t.Errorf("%s: %v, want %q", v.Name, err, v.Error)
		}
		if v.Error != "" {
			continue
		}
		if got := *log.position(); got != v.Position {
			t.Errorf("%s: at %+v, want %+v", v.Name, got, v.Position)
		}
		if got := sectionsOf(log); !reflect.DeepEqual(got, v.Sections) {
			t.Errorf("%s: got %+v", v.Name, got)
		}
	}
}

func TestLogsOfTheFirstRelease(t *testing.T) {
	for _, name := range []string{"application", "bulk", "bulk-given-up", "compacted", "compacted-again", "routes", "torn"} {
		var fixture struct {
			Files    []string
			Position position
			Requests []string
			Sections []struct {
				Name    string
				Entries map[string]struct {
					Base64  []byte
					Version uint64
				}
			}
		}
		readJSON(t, &fixture, false, "fixtures", "first-schema", name+".json")
		var segments []givenSegment
		for i, file := range fixture.Files {
			data, err := os.ReadFile(filepath.Join(tests, "fixtures", "first-schema", file))
			if err != nil {
				t.Fatal(err)
			}
			segments = append(segments, givenSegment{hex.EncodeToString(data), i < len(fixture.Files)-1})
		}
		log, err := logOf(t, segments)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := *log.position(); got != fixture.Position {
			t.Errorf("%s: at %+v, want %+v", name, got, fixture.Position)
		}
		for _, section := range fixture.Sections {
			got := log.section(section.Name).entries
			if len(got) != len(section.Entries) {
				t.Errorf("%s: %d entries of %s", name, len(got), section.Name)
			}
			for key, e := range section.Entries {
				if !bytes.Equal(got[key].value, e.Base64) || got[key].version != e.Version {
					t.Errorf("%s: %s of %s is %+v", name, key, section.Name, got[key])
				}
			}
		}
		for _, request := range fixture.Requests {
			if !log.knows(request) {
				t.Errorf("%s: request %s is not known", name, request)
			}
		}
	}
}

func TestChangesOfOtherProcesses(t *testing.T) {
	var vectors []struct {
		Name     string
		Segments []string
		Epoch    int64
		Steps    []struct {
			Write   *write
			Written *written
			Ends    bool
			Begins  int64
		}
		Sequence uint64
		Digest   string
		Sections map[string]givenSection
	}
	readJSON(t, &vectors, true, "vectors", "writes.json")
	for _, v := range vectors {
		m := alone(t)
		if _, err := OpenSection(m, "list", Bytes(), Schema{Version: 2}); err != nil {
			t.Fatal(err)
		}
		m.mu.Lock()
		putSegment := func(data []byte, sealed bool) *segment {
			s, err := openSegment(memfd(t, data, sealed), true)
			if err != nil {
				t.Fatal(err)
			}
			m.putSegment(s)
			return s
		}
		begin := func(epoch int64) {
			putSegment(segmentBytes(uint64(epoch)), false)
			if err := m.log.catchUp(); err != nil {
				t.Fatal(err)
			}
			if err := m.writeIn(epoch); err != nil {
				t.Fatal(err)
			}
		}
		for _, data := range v.Segments {
			if err := m.log.adopt(putSegment(fromHex(t, data), true)); err != nil {
				t.Fatal(err)
			}
		}
		begin(v.Epoch)
		for at, step := range v.Steps {
			switch {
			case step.Ends:
				seal(t, m.writing.fd)
				m.writing = nil
			case step.Begins > 0:
				begin(step.Begins)
			default:
				answer := m.incoming.take(step.Write, m.makeWrite)
				if answer != nil {
					answer.Number, answer.Message, answer.Retryable = step.Write.Number, "", false
				}
				if !reflect.DeepEqual(answer, step.Written) {
					t.Errorf("%s, step %d: %+v, want %+v", v.Name, at, answer, step.Written)
				}
			}
		}
		if got := *m.log.position(); uint64(got.Sequence) != v.Sequence || got.Digest != v.Digest {
			t.Errorf("%s: at %+v", v.Name, got)
		}
		if got := sectionsOf(m.log); !reflect.DeepEqual(got, v.Sections) {
			t.Errorf("%s: got %+v", v.Name, got)
		}
		m.mu.Unlock()
	}
}

func TestWhatAMemberDoes(t *testing.T) {
	var walks []struct {
		Steps []struct {
			Event     event
			Effects   []effect
			Phase     string
			Holds     bool
			Accepting bool
			Link      string
			Epoch     int64
			Top       int64
			Unfit     bool
			Unheard   bool
		}
	}
	readJSON(t, &walks, true, "vectors", "member.json")
	for n, walk := range walks {
		state := initialMember()
		for at, step := range walk.Steps {
			var effects []effect
			state, effects = stepMember(state, step.Event)
			if !reflect.DeepEqual(effects, step.Effects) && len(effects)+len(step.Effects) > 0 {
				got, _ := json.Marshal(effects)
				want, _ := json.Marshal(step.Effects)
				t.Fatalf("walk %d, step %d, %+v: does %s, want %s", n, at, step.Event, got, want)
			}
			want := state
			want.Phase, want.Holds, want.Accepting, want.Down = step.Phase, step.Holds, step.Accepting, step.Link == "down"
			want.Epoch, want.Top, want.Unfit, want.Unheard = step.Epoch, step.Top, step.Unfit, step.Unheard
			if state != want {
				t.Fatalf("walk %d, step %d, %+v: is %+v, want %+v", n, at, step.Event, state, step)
			}
		}
	}
}
