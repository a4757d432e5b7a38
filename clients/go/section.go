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
)

// Codec says how values are bytes in the state. Its name is told to members in other languages, which must use one of the same name.
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

// WriteOption is for [Section.Put] and [Section.Delete].
type WriteOption func(*record)

// WithRequest gives a change an id of the caller's: one that is tried again with it is made once.
func WithRequest(id string) WriteOption {
	return func(one *record) { one.Request = id }
}

// Put returns when the change is in the log: acknowledged. In a process that another has replaced, the change is made by that one. A
// context without a deadline has one of 30 seconds. [ErrFenced]: nobody has made it; [ErrDeadline]: nobody knows, try again with the same
// request id.
func (s *Section[T]) Put(ctx context.Context, key string, value T, options ...WriteOption) error {
	data, err := s.codec.Encode(value)
	if err != nil {
		return err
	}
	return s.change(ctx, change{Op: opPut, Key: key, Value: data, Version: s.schema.Version}, options)
}

// Delete is as [Section.Put].
func (s *Section[T]) Delete(ctx context.Context, key string, options ...WriteOption) error {
	return s.change(ctx, change{Op: opDelete, Key: key}, options)
}

func (s *Section[T]) change(ctx context.Context, one change, options []WriteOption) error {
	if len(one.Key) > mostKey || !utf8.ValidString(one.Key) {
		return fault("ERR_FDB_STATE_LIMIT", "a key has at most %d bytes of UTF-8", mostKey)
	}
	one.Section = s.schema.Name
	made := record{Changes: []change{one}}
	for _, option := range options {
		option(&made)
	}
	if made.Request == "" {
		// A change that may be sent twice has an id, so that it is made once.
		made.Request = newID()
	}
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, writeLimit)
		defer cancel()
	}
	return s.m.write(ctx, s.schema, made)
}

// write makes the change here, or where it can be made.
func (m *Member) write(ctx context.Context, schema sectionSchema, made record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		if m.log.knows(made.Request) {
			return nil
		}
		if m.writing != nil && !m.paused {
			made.Schemas = m.unsaid(schema)
			if done, err := m.append(made, nil); done || err != nil {
				return err
			}
		}
		switch {
		case m.state.joining() && !m.first():
			return fault("ERR_FDB_NOT_READY", "the state can be changed when this process serves: after Ready")
		case m.over:
			return fault("ERR_FDB_CLOSED", "this member has left: nothing can be written any more")
		case m.state.in("standby", "leaving"):
			return m.writeElsewhere(ctx, schema, made)
		}
		if m.awaitChange(ctx) != nil {
			return passing("ERR_FDB_FENCED", "this process has no right to write now")
		}
	}
}

// writeElsewhere has the one that serves make the change, and waits until it is seen here.
func (m *Member) writeElsewhere(ctx context.Context, schema sectionSchema, made record) error {
	m.follow()
	if m.drain == nil {
		return passing("ERR_FDB_FENCED", "this process has no right to write now")
	}
	var parts [][]byte
	if unsaid := m.unsaid(schema); unsaid != nil {
		parts = append(parts, marshal(&record{Schemas: unsaid}))
	}
	parts = append(parts, marshal(&record{Changes: made.Changes}))
	if err := m.drain.forward(ctx, made.Request, parts); err != nil {
		return err
	}
	for until := time.Now().Add(viewLimit); time.Now().Before(until); {
		m.follow()
		if m.over || m.log.knows(made.Request) {
			break
		}
		// The file tells nobody that it has grown.
		m.mu.Unlock()
		time.Sleep(viewPause)
		m.mu.Lock()
	}
	return nil
}
