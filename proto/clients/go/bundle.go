//go:build linux

package fdbroker

// held is a descriptor with its announcement. The receiver owns the descriptor.
type held struct {
	item
	fd int
}

func closeHeld(items []held) {
	for _, one := range items {
		closeAll([]int{one.fd})
	}
}

// bundles are the received parts of unfinished bundles, by their numbers. The map owns the descriptors.
type bundles map[uint64][]held

// take owns the descriptors of a batch: each must be the very socket or file that was announced, or none is taken. With the last batch of
// a bundle, take returns all of the bundle.
func (b bundles) take(told *fds, arrived []int) ([]held, error) {
	if err := verify(told.Items, arrived); err != nil {
		closeAll(arrived)
		return nil, err
	}
	items := b[told.Bundle]
	for i, one := range told.Items {
		items = append(items, held{one, arrived[i]})
	}
	b[told.Bundle] = items
	if !told.Last {
		return nil, nil
	}
	delete(b, told.Bundle)
	return items, nil
}

// ack says that a batch was taken.
func (told *fds) ack() envelope {
	return envelope{FdsAck: &fdsAck{Index: told.Index, Verified: uint64(len(told.Items)), Bundle: told.Bundle}}
}

// close closes what has come of bundles whose rest will not.
func (b bundles) close() {
	for number, items := range b {
		closeHeld(items)
		delete(b, number)
	}
}
