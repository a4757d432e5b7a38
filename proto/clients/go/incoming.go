//go:build linux

package fdbroker

const (
	mostArriving   = 64
	mostRemembered = 1024
)

// writeKey is a change of one process: its source and number.
type writeKey struct{ source, number uint64 }

// incoming are the changes that come over one link, in pieces, from several processes.
type incoming struct {
	arriving map[writeKey][][]byte
	// answered before their last piece: the rest is ignored.
	answered *memory[writeKey]
	// sentAway: sources that were answered AGAIN. A later change must not be made before an earlier one: until they connect again, as others.
	sentAway *memory[uint64]
}

func newIncoming() *incoming {
	return &incoming{arriving: map[writeKey][][]byte{}, answered: newMemory[writeKey](), sentAway: newMemory[uint64]()}
}

// take gives the answer to a piece of a change; nil: none yet. `make` makes a change that is whole.
func (in *incoming) take(asked *write, make func(*write, [][]byte) (*written, error)) *written {
	key := writeKey{asked.Source, asked.Number}
	if asked.Request == "" {
		delete(in.arriving, key)
		in.answered.forget(key)
		return nil
	}
	if in.answered.has(key) {
		if !asked.More {
			in.answered.forget(key)
		}
		return nil
	}
	known, begun := in.arriving[key]
	delete(in.arriving, key)
	parts := append(known, asked.Parts...)
	size := 0
	for _, one := range parts {
		size += len(one)
	}
	var answer *written
	var err error
	switch {
	case in.sentAway.has(asked.Source), asked.More && !begun && len(in.arriving) >= mostArriving:
		answer = &written{Outcome: outcomeAgain}
	case size > mostRecord:
		err = fault("ERR_FDB_STATE_LIMIT", "a change of %d bytes is more than %d", size, mostRecord)
	case asked.More:
		in.arriving[key] = parts
		return nil
	default:
		answer, err = make(asked, parts)
	}
	if err != nil {
		why := coded(err)
		answer = &written{Outcome: outcomeRefused, Code: why.Code, Message: why.Message, Retryable: why.Retryable}
	}
	if asked.More {
		in.answered.add(key)
	}
	if answer.Outcome == outcomeAgain {
		in.sentAway.add(asked.Source)
	}
	return answer
}

// memory has the last few of what was added.
type memory[K comparable] struct {
	known map[K]struct{}
	order []K
}

func newMemory[K comparable]() *memory[K] { return &memory[K]{known: map[K]struct{}{}} }

func (m *memory[K]) has(key K) bool {
	_, known := m.known[key]
	return known
}

func (m *memory[K]) add(key K) {
	if m.has(key) {
		return
	}
	m.known[key] = struct{}{}
	m.order = append(m.order, key)
	if len(m.order) > mostRemembered {
		delete(m.known, m.order[0])
		m.order = m.order[1:]
	}
}

func (m *memory[K]) forget(key K) {
	if !m.has(key) {
		return
	}
	delete(m.known, key)
	for i, one := range m.order {
		if one == key {
			m.order = append(m.order[:i:i], m.order[i+1:]...)
			return
		}
	}
}
