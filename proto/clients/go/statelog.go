//go:build linux

package fdbroker

import (
	"errors"
	"io"
)

const mostRequests = 65_536

type entry struct {
	value   []byte
	version uint64
}

type sectionState struct {
	entries map[string]entry
	// stored is what the log says of its schema; nil: nothing.
	stored *sectionSchema
}

// stateLog is the state of a service: the segments of its log in order, and the sections that they add up to. The log owns its segments only
// as far as [stateLog.adopt] gave them; it is not safe for goroutines.
type stateLog struct {
	segments []*segment
	sections map[string]*sectionState
	sequence uint64
	epoch    uint64
	digest   digest
	count    uint64
	// requests are remembered in the order of ring.
	requests map[string]struct{}
	ring     []string
	// parts of a bulk whose last record has not come.
	parts *bulk
}

type bulk struct {
	next    uint64
	changes []change
	schemas []sectionSchema
}

func newStateLog() *stateLog {
	return &stateLog{sections: map[string]*sectionState{}, requests: map[string]struct{}{}}
}

func (l *stateLog) position() *position {
	return &position{Epoch: l.epoch, Sequence: float64(l.sequence), Digest: l.digest.String()}
}

func (l *stateLog) knows(request string) bool {
	_, known := l.requests[request]
	return known
}

func (l *stateLog) has(s *segment) bool {
	for _, one := range l.segments {
		if one == s {
			return true
		}
	}
	return false
}

// follows reports whether a segment of that epoch can come next.
func (l *stateLog) follows(epoch uint64) bool {
	return len(l.segments) == 0 || epoch > l.segments[len(l.segments)-1].epoch
}

// adopt takes the next segment of the log: the snapshot first, then rising epochs.
func (l *stateLog) adopt(s *segment) error {
	if !l.follows(s.epoch) || (len(l.segments) > 0 && s.snapshot) {
		return fault("ERR_FDB_STATE_ORDER", "the segment of epoch %d cannot come next", s.epoch)
	}
	l.segments = append(l.segments, s)
	return nil
}

// forget takes out a segment in which nothing is, and nothing will be; false: it counts, or may.
func (l *stateLog) forget(s *segment) bool {
	if s.snapshot || !s.sealed() || !s.bare() {
		return false
	}
	for i, one := range l.segments {
		if one == s {
			if i == len(l.segments)-1 {
				return false
			}
			l.segments = append(l.segments[:i:i], l.segments[i+1:]...)
			break
		}
	}
	return true
}

// catchUp reads what is new. A segment counts only when all before it are sealed.
func (l *stateLog) catchUp() error {
	for _, s := range l.segments {
		if s.final {
			continue
		}
		// First: what is written between the two would be missed.
		sealed := s.sealed()
		if err := l.read(s, sealed); err != nil {
			return err
		}
		if !sealed {
			return nil
		}
		s.final = true
	}
	return nil
}

func (l *stateLog) read(s *segment, sealed bool) error {
	size, err := sizeOf(s.fd)
	if err != nil {
		return err
	}
	first, whole := s.snapshot, !s.snapshot
	for {
		one, following, err := s.next(sealed, size)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if s.snapshot {
			if whole {
				return s.damaged("records behind the end of a snapshot")
			}
			if !first && one.Sequence != l.sequence {
				return s.damaged("sequence %d in the same snapshot", one.Sequence)
			}
			first = false
		} else if one.Sequence != l.sequence+1 {
			return s.damaged("sequence %d after %d", one.Sequence, l.sequence)
		}
		if err := l.apply(s, one); err != nil {
			return err
		}
		if one.End != nil {
			if one.End.Entries != l.count || one.End.Digest != l.digest.String() {
				return s.damaged("its end says something else")
			}
			whole = true
		}
		s.end = following
	}
	if !whole {
		return s.damaged("the end of the snapshot is missing")
	}
	return nil
}

func (l *stateLog) apply(s *segment, one *record) error {
	for _, c := range one.Changes {
		if c.Op > opClear {
			return fault("ERR_FDB_STATE_FORMAT", "a change of kind %d: use a newer release", c.Op)
		}
	}
	l.sequence, l.epoch = one.Sequence, one.Epoch
	if one.Part == nil || one.Part.Index == 0 {
		// A bulk that was given up counts for nothing.
		l.parts = nil
	}
	changes, schemas := one.Changes, one.Schemas
	if one.Part != nil {
		if l.parts == nil {
			l.parts = &bulk{}
		}
		if one.Part.Index != l.parts.next {
			return s.damaged("a part of a bulk without the part before it")
		}
		l.parts.next++
		l.parts.changes = append(l.parts.changes, changes...)
		l.parts.schemas = append(l.parts.schemas, schemas...)
		if !one.Part.Last {
			return nil
		}
		changes, schemas, l.parts = l.parts.changes, l.parts.schemas, nil
	}
	for _, told := range schemas {
		of := l.section(told.Name)
		of.stored = mergedSchema(of.stored, told)
	}
	for _, c := range changes {
		l.change(c)
	}
	l.remember(one.Request)
	for _, request := range one.Requests {
		l.remember(request)
	}
	return nil
}

func (l *stateLog) remember(request string) {
	if request == "" || l.knows(request) {
		return
	}
	l.requests[request] = struct{}{}
	l.ring = append(l.ring, request)
	if len(l.requests) > mostRequests {
		delete(l.requests, l.ring[0])
		l.ring = l.ring[1:]
	}
}

func (l *stateLog) section(name string) *sectionState {
	of := l.sections[name]
	if of == nil {
		of = &sectionState{entries: map[string]entry{}}
		l.sections[name] = of
	}
	return of
}

func (l *stateLog) change(c change) {
	of := l.section(c.Section)
	if c.Op == opClear {
		for key := range of.entries {
			l.remove(c.Section, of, key)
		}
		return
	}
	l.remove(c.Section, of, c.Key)
	if c.Op == opPut {
		of.entries[c.Key] = entry{c.Value, c.Version}
		l.digest.add(c.Section, c.Key, c.Value)
		l.count++
	}
}

func (l *stateLog) remove(name string, of *sectionState, key string) {
	if before, ok := of.entries[key]; ok {
		delete(of.entries, key)
		l.digest.remove(name, key, before.value)
		l.count--
	}
}

// mergedSchema is what the log says of a section that was told of it twice: the lowest reader never falls, a secret stays one.
func mergedSchema(known *sectionSchema, told sectionSchema) *sectionSchema {
	if known == nil {
		return &told
	}
	newer := told
	if told.Version < known.Version {
		newer = *known
	}
	newer.MinReader = max(known.MinReader, told.MinReader)
	newer.Secret = known.Secret || told.Secret
	return &newer
}
