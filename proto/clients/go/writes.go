//go:build linux

package fdbroker

import (
	"bytes"
	"crypto/sha256"
	"strconv"
)

// takeWrite: a change that was made in a process that drains is made here, once.
func (m *Member) takeWrite(asked *write) {
	if answer := m.incoming.take(asked, m.makeWrite); answer != nil {
		answer.Number = asked.Number
		m.tell(envelope{Written: answer})
	}
}

func (m *Member) makeWrite(asked *write, parts [][]byte) (*written, error) {
	sequence := func() float64 { return float64(m.log.sequence) }
	if m.log.knows(asked.Request) {
		return &written{Outcome: outcomeApplied, Sequence: sequence()}, nil
	}
	if m.writing == nil || m.paused {
		return &written{Outcome: outcomeAgain}, nil
	}
	if asked.Durable {
		return nil, fault("ERR_FDB_STATE_FILE", "the member that serves keeps no state file")
	}
	existed, unwritten, err := m.checkWrite(parts)
	if err != nil {
		return nil, err
	}
	if len(parts) == 0 && len(asked.Reads) == 0 {
		return nil, malformed("there is no change in it")
	}
	if m.changedSince(asked.Reads) {
		return &written{Outcome: outcomeConflict, Sequence: sequence()}, nil
	}
	if len(parts) > 0 {
		done, err := m.append(record{Request: asked.Request, Schemas: unwritten}, bytes.Join(parts, nil))
		if err != nil {
			return nil, err
		}
		if !done {
			return &written{Outcome: outcomeAgain}, nil
		}
	}
	return &written{Outcome: outcomeApplied, Existed: existed, Sequence: sequence()}, nil
}

// checkWrite lets pass only changes and schemas, which this process and all that read its log may read. Returns true for one deletion of
// an existing entry, and this process's own schemas that the log needs.
func (m *Member) checkWrite(parts [][]byte) (bool, []sectionSchema, error) {
	given := map[string]uint64{}
	var changes []change
	var unwritten []sectionSchema
	for _, data := range parts {
		var one record
		if err := unmarshal(data, &one, mostRecordFields); err != nil {
			return false, nil, err
		}
		placed := one.Epoch != 0 || one.Sequence != 0 || one.Request != "" || len(one.Requests) > 0 || one.End != nil || one.Part != nil
		if placed {
			return false, nil, malformed("a forwarded change has a place of its own")
		}
		for _, schema := range one.Schemas {
			if err := m.checkGiven(schema); err != nil {
				return false, nil, err
			}
			given[schema.Name] = max(given[schema.Name], schema.Version)
		}
		for _, c := range one.Changes {
			lacks, err := m.checkChange(c, given)
			if err != nil {
				return false, nil, err
			}
			if lacks {
				own := m.sections[c.Section]
				given[c.Section] = own.Version
				unwritten = append(unwritten, m.unsaid(own)...)
			}
		}
		changes = append(changes, one.Changes...)
	}
	if len(changes) > mostChanges {
		return false, nil, fault("ERR_FDB_STATE_LIMIT", "%d changes at once are more than %d", len(changes), mostChanges)
	}
	if len(changes) != 1 || changes[0].Op != opDelete {
		return false, unwritten, nil
	}
	_, existed := m.log.section(changes[0].Section).entries[changes[0].Key]
	return existed, unwritten, nil
}

func (m *Member) checkGiven(schema sectionSchema) error {
	own, used := m.sections[schema.Name]
	if used && schema.MinReader > own.Version {
		return fault("ERR_FDB_SCHEMA", "section %s would need a newer reader than the process that serves", schema.Name)
	}
	stored := m.log.section(schema.Name).stored
	if (used && own.Codec != schema.Codec) || (stored != nil && stored.Codec != "" && stored.Codec != schema.Codec) {
		return fault("ERR_FDB_SCHEMA", "section %s has another codec", schema.Name)
	}
	return nil
}

// checkChange reports whether the log needs this process's own schema: a service that has begun again has none in its log yet.
func (m *Member) checkChange(c change, given map[string]uint64) (bool, error) {
	if c.Op > opClear {
		return false, malformed("a change of kind " + strconv.FormatUint(c.Op, 10))
	}
	version, known := given[c.Section]
	if stored := m.log.section(c.Section).stored; stored != nil {
		version, known = max(version, stored.Version), true
	}
	if c.Op != opPut || (known && c.Version <= version) {
		return false, nil
	}
	if own, used := m.sections[c.Section]; used && c.Version <= own.Version {
		return true, nil
	}
	return false, fault("ERR_FDB_SCHEMA", "a change of section %s has a newer schema than the process that serves knows", c.Section)
}

func (m *Member) changedSince(reads []entryRead) bool {
	for _, read := range reads {
		var mark []byte
		if found, ok := m.log.section(read.Section).entries[read.Key]; ok {
			mark = markOf(found)
		}
		if !bytes.Equal(mark, read.Mark) {
			return true
		}
	}
	return false
}

// markOf stands for what an entry is; of none it is empty.
func markOf(found entry) []byte {
	sum := sha256.Sum256(append([]byte(strconv.FormatUint(found.version, 10)+" "), found.value...))
	return sum[:16]
}
