//go:build linux

package fdbroker

import (
	"bytes"
	"context"
	"encoding/json"
	"sort"
	"time"
	"unicode/utf8"
)

const (
	mostKey     = 65_535
	mostName    = 255
	mostSection = 1024
	writeLimit  = 30 * time.Second
	viewLimit   = 2 * time.Second
	viewPause   = 20 * time.Millisecond
	againPause  = 100 * time.Millisecond
)

// Codec says how values are bytes in the state. Members in other languages are told its name, and must use one of the same name.
type Codec[T any] struct {
	Name   string
	Encode func(T) ([]byte, error)
	Decode func([]byte) (T, error)
}

// JSON is the codec that members in every language have.
func JSON[T any]() Codec[T] {
	return Codec[T]{
		Name: "json",
		Encode: func(value T) ([]byte, error) {
			var out bytes.Buffer
			encoder := json.NewEncoder(&out)
			encoder.SetEscapeHTML(false)
			if err := encoder.Encode(value); err != nil {
				return nil, err
			}
			return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
		},
		Decode: func(data []byte) (value T, err error) {
			err = json.Unmarshal(data, &value)
			return value, err
		},
	}
}

// Bytes is for values that are bytes.
func Bytes() Codec[[]byte] {
	own := func(data []byte) ([]byte, error) { return append([]byte{}, data...), nil }
	return Codec[[]byte]{Name: "bytes", Encode: own, Decode: own}
}

// Schema of a section's values. Zero numbers are 1.
type Schema struct {
	Version uint64
	// MinReader is the lowest version that may read what this one writes.
	MinReader uint64
	// Secret values are not shown by tools.
	Secret bool
}

// Section is a map from text to values, kept across processes and shared with members in other languages. From any goroutine.
type Section[T any] struct {
	m      *Member
	codec  Codec[T]
	schema sectionSchema
}

// OpenSection gives a section of the state. With [ErrSchema] this version may not read it, and the one that serves goes on.
func OpenSection[T any](m *Member, name string, codec Codec[T], schema Schema) (*Section[T], error) {
	if name == "" || len(name) > mostName || !utf8.ValidString(name) {
		return nil, fault("ERR_FDB_OPTION", "the name of a section has 1 to %d bytes of UTF-8", mostName)
	}
	made := &Section[T]{m: m, codec: codec, schema: sectionSchema{
		Name: name, Version: max(schema.Version, 1), MinReader: max(schema.MinReader, 1), Codec: codec.Name, Secret: schema.Secret,
	}}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.sections) >= mostSection {
		return nil, fault("ERR_FDB_STATE_LIMIT", "a service has at most %d sections", mostSection)
	}
	if err := m.refusal(made.schema); err != nil {
		m.refuse(coded(err))
		return nil, err
	}
	m.sections[name] = made.schema
	return made, nil
}

// entries calls read with what there is now.
func (m *Member) entries(section string, read func(map[string]entry)) {
	m.mu.RLock()
	if m.writing == nil {
		// Another may have written.
		m.mu.RUnlock()
		m.mu.Lock()
		defer m.mu.Unlock()
		m.follow()
	} else {
		defer m.mu.RUnlock()
	}
	if of := m.log.sections[section]; of != nil {
		read(of.entries)
	}
}

// Get gives the value of a key; ok is false where there is none. The error is the codec's.
func (s *Section[T]) Get(key string) (value T, ok bool, err error) {
	var found entry
	s.m.entries(s.schema.Name, func(entries map[string]entry) { found, ok = entries[key] })
	if ok {
		value, err = s.codec.Decode(found.value)
	}
	return value, ok, err
}

// Len is the number of keys.
func (s *Section[T]) Len() (n int) {
	s.m.entries(s.schema.Name, func(entries map[string]entry) { n = len(entries) })
	return n
}

// Keys are sorted.
func (s *Section[T]) Keys() []string {
	var keys []string
	s.m.entries(s.schema.Name, func(entries map[string]entry) {
		for key := range entries {
			keys = append(keys, key)
		}
	})
	sort.Strings(keys)
	return keys
}

// WriteOption is for [Section.Put], [Section.Update] and [Section.Delete].
type WriteOption func(*record)

// WithRequest gives a change an id of the caller's: one that is tried again with it is made once.
func WithRequest(id string) WriteOption {
	return func(one *record) { one.Request = id }
}

// Put returns when the change is in the log: acknowledged. In a replaced process, the serving process makes the change. A
// context without a deadline has one of 30 seconds. [ErrFenced]: no process has made it; [ErrDeadline]: the outcome is unknown, try again
// with the same request id.
func (s *Section[T]) Put(ctx context.Context, key string, value T, options ...WriteOption) error {
	data, err := s.codec.Encode(value)
	if err != nil {
		return err
	}
	return s.change(ctx, s.put(key, data), options)
}

// Delete is as [Section.Put].
func (s *Section[T]) Delete(ctx context.Context, key string, options ...WriteOption) error {
	return s.change(ctx, change{Op: opDelete, Key: key}, options)
}

// Update puts what change makes of the value that is there (ok is false where there is none), and returns it. An increment, say: a Get and a
// Put beside it lose those that come between them, from another goroutine, or from the process that serves next. change is called again
// where the entry has become another one meanwhile, so it does nothing else; its error ends the update. With a request that was made before,
// Update returns what is there.
func (s *Section[T]) Update(ctx context.Context, key string, change func(value T, ok bool) (T, error), options ...WriteOption) (T, error) {
	var none T
	ctx, cancel := limited(ctx)
	defer cancel()
	made := record{}
	for _, option := range options {
		option(&made)
	}
	if made.Request != "" && s.m.made(made.Request) {
		value, _, err := s.Get(key)
		return value, err
	}
	// Each try is of one change, which may be sent twice.
	options = append(options[:len(options):len(options)], WithRequest(orNew(made.Request)))
	for {
		var found entry
		var ok bool
		s.m.entries(s.schema.Name, func(entries map[string]entry) { found, ok = entries[key] })
		read := entryRead{Section: s.schema.Name, Key: key}
		value := none
		if ok {
			var err error
			if value, err = s.codec.Decode(found.value); err != nil {
				return none, err
			}
			read.Mark = markOf(found)
		}
		value, err := change(value, ok)
		if err != nil {
			return none, err
		}
		data, err := s.codec.Encode(value)
		if err != nil {
			return none, err
		}
		put := writing{change: s.put(key, data), reads: []entryRead{read}}
		if done, err := s.try(ctx, put, options); done || err != nil {
			return value, err
		}
		if ctx.Err() != nil {
			return none, passing("ERR_FDB_DEADLINE", key+" of section "+s.schema.Name+" was another at each of the updates")
		}
	}
}

func (s *Section[T]) put(key string, data []byte) change {
	return change{Op: opPut, Key: key, Value: data, Version: s.schema.Version}
}

func (s *Section[T]) change(ctx context.Context, one change, options []WriteOption) error {
	_, err := s.try(ctx, writing{change: one}, options)
	return err
}

// writing is one change, and what it was made of: an entry that is another by then.
type writing struct {
	change change
	reads  []entryRead
}

// try is false where an entry that was read is another by now: nothing was done.
func (s *Section[T]) try(ctx context.Context, asked writing, options []WriteOption) (bool, error) {
	one := asked.change
	if len(one.Key) > mostKey || !utf8.ValidString(one.Key) {
		return false, fault("ERR_FDB_STATE_LIMIT", "a key has at most %d bytes of UTF-8", mostKey)
	}
	one.Section = s.schema.Name
	made := record{Changes: []change{one}}
	for _, option := range options {
		option(&made)
	}
	// A change that may be sent twice has an id, so that it is made once.
	made.Request = orNew(made.Request)
	ctx, cancel := limited(ctx)
	defer cancel()
	return s.m.write(ctx, s.schema, made, asked.reads)
}

func orNew(request string) string {
	if request == "" {
		return newID()
	}
	return request
}

func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, limited := ctx.Deadline(); limited {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, writeLimit)
}

func (m *Member) made(request string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.follow()
	return m.log.knows(request)
}

// write makes the change here, or has the serving process make it. Returns false if an entry of reads has changed by now.
func (m *Member) write(ctx context.Context, schema sectionSchema, made record, reads []entryRead) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	asked := forwarded{request: made.Request, reads: reads}
	for {
		if m.log.knows(made.Request) {
			return true, nil
		}
		if m.writing != nil && !m.paused {
			if m.changedSince(reads) {
				return false, nil
			}
			made.Schemas = m.unsaid(schema)
			if done, err := m.append(made, nil); done || err != nil {
				return done, err
			}
		}
		switch {
		case m.state.joining() && !m.first():
			return false, fault("ERR_FDB_NOT_READY", "the state can be changed when this process serves: after Ready")
		case m.over:
			return false, asked.unmade(fault("ERR_FDB_CLOSED", "this member has left: nothing can be written any more"))
		}
		m.follow()
		if m.drain == nil || !m.state.in("standby", "leaving") {
			if m.awaitChange(ctx) != nil {
				return false, asked.unmade(passing("ERR_FDB_FENCED", "this process has no right to write now"))
			}
			continue
		}
		asked.parts = nil
		if unsaid := m.unsaid(schema); unsaid != nil {
			asked.parts = append(asked.parts, marshal(&record{Schemas: unsaid}))
		}
		asked.parts = append(asked.parts, marshal(&record{Changes: made.Changes}))
		known := m.log.sequence
		answer, err := m.drain.forward(ctx, &asked)
		if err != nil {
			return false, err
		}
		// None: over this way it cannot be made any more. This process may serve again, and make it itself.
		if answer != nil {
			m.see(made.Request, answer, known)
			return answer.Outcome == outcomeApplied, nil
		}
		if ctx.Err() != nil {
			return false, asked.unmade(passing("ERR_FDB_FENCED", "another process serves, and takes no changes of this one"))
		}
	}
}

// forwarded is a change that waits until it is made, here or elsewhere: always under the same request id.
type forwarded struct {
	request string
	parts   [][]byte
	reads   []entryRead
	// sent: it may have been made, by a process that has not answered.
	sent bool
}

// unmade is what the caller hears when it is given up.
func (f *forwarded) unmade(why *Error) *Error {
	if f.sent {
		return passing("ERR_FDB_DEADLINE", "nobody said whether the change was made: try again with the same request id")
	}
	return why
}

// see waits until this process has read what the one that serves has done, or has found there.
func (m *Member) see(request string, answer *written, known uint64) {
	there, limit := func() bool { return m.log.knows(request) }, viewLimit
	if answer.Outcome == outcomeConflict {
		// Without anything new to read, the next try would be the same.
		there = func() bool { return float64(m.log.sequence) >= answer.Sequence && m.log.sequence > known }
		if answer.Sequence <= float64(known) {
			limit = againPause
		}
	}
	for until := time.Now().Add(limit); !m.over; {
		m.follow()
		if there() || !time.Now().Before(until) {
			return
		}
		// The file does not report its growth.
		m.mu.Unlock()
		time.Sleep(viewPause)
		m.mu.Lock()
	}
}
