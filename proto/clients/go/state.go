//go:build linux

package fdbroker

import "time"

// adoptSegments gives the log the wanted segments, in order.
func (m *Member) adoptSegments(wanted func(*segment) bool) error {
	for _, epoch := range m.epochs() {
		one := m.segments[epoch]
		if !m.log.follows(epoch) || !wanted(one) || m.log.has(one) {
			continue
		}
		if err := m.log.adopt(one); err != nil {
			return err
		}
	}
	return nil
}

// startFrom reads the state again from a snapshot, into which segments were merged that this process lacks.
func (m *Member) startFrom(snapshot *segment) error {
	log := newStateLog()
	err := log.adopt(snapshot)
	if err == nil {
		err = log.catchUp()
	}
	if err != nil {
		return err
	}
	for epoch, one := range m.segments {
		if epoch <= snapshot.epoch {
			one.close()
			delete(m.segments, epoch)
		}
	}
	m.log = log
	m.putSegment(snapshot)
	return nil
}

// carry reads everything that was acknowledged in the segments below this epoch.
func (m *Member) carry(below int64) error {
	err := m.adoptSegments(func(s *segment) bool { return int64(s.epoch) < below && !(s.sealed() && s.bare()) })
	if err == nil {
		err = m.log.catchUp()
	}
	if err == nil {
		err = m.checkSchemas()
	}
	return err
}

func (m *Member) checkSchemas() error {
	for _, schema := range m.sections {
		if err := m.refusal(schema); err != nil {
			return err
		}
	}
	return nil
}

// writeIn appends to the segment of this epoch from now on.
func (m *Member) writeIn(epoch int64) error {
	one := m.segments[uint64(epoch)]
	if epoch < 0 || one == nil {
		return fault("ERR_FDB_INTERNAL", "no segment of epoch %d to write in", epoch)
	}
	if !m.log.has(one) {
		if err := m.log.adopt(one); err != nil {
			return err
		}
		if err := m.log.catchUp(); err != nil {
			return err
		}
	}
	// Half a record of a writer that was killed.
	size, err := sizeOf(one.fd)
	if err != nil {
		return err
	}
	one.cut(size - one.end)
	m.writing, m.paused = one, false
	if m.drain != nil {
		go m.drain.close()
		m.drain = nil
	}
	return nil
}

// follow reads what another writes, while this process does not.
func (m *Member) follow() {
	if m.writing != nil || !m.state.in("standby", "leaving", "orphan", "unfit") {
		return
	}
	err := m.adoptSegments(func(s *segment) bool { return !s.snapshot })
	if err == nil {
		err = m.log.catchUp()
	}
	if err == nil {
		err = m.checkSchemas()
	}
	if err != nil && m.state.Phase == "standby" && !m.state.Unfit {
		m.reason = coded(err)
		m.step(event{Type: "failed", Effect: "follow"})
	}
	if m.state.in("standby", "leaving") && m.drain == nil && !m.over {
		m.drain = newDrain(m)
	}
}

// refusal says why this process may not read what the log has of a section; nil: it may.
func (m *Member) refusal(schema sectionSchema) error {
	stored := m.log.section(schema.Name).stored
	switch {
	case stored == nil:
		return nil
	case stored.MinReader > schema.Version:
		why := "section %s was written for readers of version %d; this process has %d"
		return fault("ERR_FDB_SCHEMA", why, schema.Name, stored.MinReader, schema.Version)
	case stored.Codec != "" && stored.Codec != schema.Codec:
		why := "section %s was written with codec %s; this process has %s"
		return fault("ERR_FDB_SCHEMA", why, schema.Name, stored.Codec, schema.Codec)
	}
	return nil
}

// unsaid is what the log must be told of a schema before this process writes; nil: nothing.
func (m *Member) unsaid(schema sectionSchema) []sectionSchema {
	stored := m.log.section(schema.Name).stored
	wanted := *mergedSchema(stored, schema)
	if stored != nil && wanted == *stored {
		return nil
	}
	return []sectionSchema{wanted}
}

// append adds one record in its place and applies it; `raw`: more of it, encoded. Returns false if the right to write has ended.
func (m *Member) append(one record, raw []byte) (bool, error) {
	s := m.writing
	one.Epoch, one.Sequence = s.epoch, m.log.sequence+1
	whole := append(marshal(&one), raw...)
	if len(whole) > mostRecord {
		return false, fault("ERR_FDB_STATE_LIMIT", "a change of %d bytes is more than %d", len(whole), mostRecord)
	}
	// Read as others will: what they would refuse is not written.
	var made record
	if err := unmarshal(whole, &made, mostRecordFields); err != nil {
		return false, err
	}
	may, err := s.append(stateFrame(whole))
	if err != nil {
		return false, err
	}
	if !may {
		m.writing = nil
		return false, nil
	}
	m.grown()
	return true, m.log.apply(s, &made)
}

const grownPause = 10 * time.Millisecond

// grown tells those who follow this state, several appends as one.
func (m *Member) grown() {
	if !m.followed || m.growing {
		return
	}
	m.growing = true
	m.later(grownPause, m.tellAppended)
}

// tellAppended may be left out: those who follow also look by themselves.
func (m *Member) tellAppended() {
	m.growing = false
	if m.link != nil && m.link.hint(envelope{Appended: &empty{}}) != nil {
		m.link.close()
	}
}
