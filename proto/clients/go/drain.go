//go:build linux

package fdbroker

import (
	"context"
	"errors"
	"sync"
	"time"
)

const drainPause = 250 * time.Millisecond

// drain is the connection of a process that does not serve any more: says that it is there, gets newer state, and sends its changes.
type drain struct {
	m      *Member
	ended  chan struct{}
	ending sync.Once

	// With the member's lock: the channel over which changes can be sent, and what came of those that are waited for.
	channel *channel
	numbers uint64
	answers map[uint64]*written
}

func newDrain(m *Member) *drain {
	d := &drain{m: m, ended: make(chan struct{}), answers: map[uint64]*written{}}
	go d.run()
	return d
}

func (d *drain) over() bool {
	select {
	case <-d.ended:
		return true
	default:
		return false
	}
}

// forward gives the answer of the process that serves: the change is made, or an entry of its reads is another by now. Nil: no answer comes
// over this connection, or not in time. With the member's lock, which it gives up while it waits.
func (d *drain) forward(ctx context.Context, asked *forwarded) (*written, error) {
	m := d.m
	for ctx.Err() == nil && !d.over() {
		channel := d.channel
		if channel == nil {
			m.awaitChange(ctx)
			continue
		}
		d.numbers++
		number := d.numbers
		d.answers[number] = nil
		said := write{Number: number, Request: asked.request, Parts: asked.parts, Reads: asked.reads}
		if err := channel.send(envelope{Write: &said}); err != nil {
			delete(d.answers, number)
			if !errors.Is(err, errChannelClosed) {
				return nil, err
			}
			d.drop(channel)
			continue
		}
		asked.sent = true
		m.await(ctx, func() bool { return d.answers[number] != nil || d.channel != channel || d.over() })
		answer := d.answers[number]
		delete(d.answers, number)
		switch {
		case answer == nil:
		case answer.Outcome == outcomeApplied, answer.Outcome == outcomeConflict:
			return answer, nil
		case answer.Outcome == outcomeRefused:
			return nil, told(answer.Code, answer.Message, answer.Retryable, "ERR_FDB_FENCED")
		default:
			d.drop(channel)
		}
	}
	return nil, nil
}

// drop ends the channel; the drain connects again.
func (d *drain) drop(channel *channel) {
	if d.channel == channel {
		d.channel = nil
		d.m.notify()
	}
	channel.close()
}

// close says once more how this process is. Without the member's lock.
func (d *drain) close() {
	d.ending.Do(func() {
		close(d.ended)
		d.m.mu.Lock()
		channel := d.channel
		d.channel = nil
		report := d.m.report()
		d.m.notify()
		d.m.mu.Unlock()
		if channel != nil {
			channel.beat(heartbeat{Healthy: true, Report: report})
			channel.finish()
			select {
			case <-channel.flushed:
			case <-time.After(time.Second):
				channel.close()
			}
		}
	})
}

func (d *drain) run() {
	for !d.over() {
		if channel, err := d.connect(); err == nil {
			d.m.mu.Lock()
			if d.channel == channel {
				d.channel = nil
			}
			d.m.notify()
			d.m.mu.Unlock()
		}
		select {
		case <-d.ended:
		case <-time.After(drainPause):
		}
	}
}

// connect returns when the connection has ended.
func (d *drain) connect() (*channel, error) {
	ctx, cancel := within(time.Second)
	defer cancel()
	channel, err := connect(ctx, d.m.control)
	if err != nil {
		return nil, err
	}
	defer channel.release()
	d.m.mu.RLock()
	var top uint64
	for epoch := range d.m.segments {
		top = max(top, epoch)
	}
	d.m.mu.RUnlock()
	got, err := greet(ctx, channel, hello{
		Service: d.m.service, Intent: intentDraining, Generation: uint64(d.m.generation), Top: top,
		Capabilities: []string{"snapshots"},
	})
	if err != nil {
		return nil, err
	}
	closeAll([]int{got.pidfd})
	d.m.mu.Lock()
	for _, can := range got.Capabilities {
		if can == "writes" && !d.over() {
			d.channel = channel
		}
	}
	d.m.notify()
	d.m.mu.Unlock()
	ended := make(chan struct{})
	defer close(ended)
	go d.beat(channel, ended)
	d.listen(channel, got.rest)
	return channel, nil
}

func (d *drain) beat(channel *channel, ended chan struct{}) {
	for {
		d.m.mu.RLock()
		report := d.m.report()
		d.m.mu.RUnlock()
		if channel.beat(heartbeat{Healthy: true, Report: report}) != nil {
			return
		}
		select {
		case <-ended:
			return
		case <-d.ended:
			// Also where no changes may be sent over it.
			channel.finish()
			return
		case <-time.After(drainPause):
		}
	}
}

func (d *drain) listen(channel *channel, messages []message) {
	bundles := bundles{}
	defer bundles.close()
	for {
		for i, one := range messages {
			if err := d.hear(channel, one, bundles); err != nil {
				closeFds(messages[i+1:])
				return
			}
		}
		var err error
		if messages, err = channel.receive(); err != nil {
			return
		}
	}
}

func (d *drain) hear(channel *channel, one message, bundles bundles) error {
	if told := one.Fds; told != nil {
		items, err := bundles.take(told, one.fds)
		if err == nil {
			err = channel.send(told.ack())
		}
		if err != nil || !told.Last {
			closeHeld(items)
			return err
		}
		return d.take(items)
	}
	closeAll(one.fds)
	if one.Written != nil {
		d.m.mu.Lock()
		defer d.m.mu.Unlock()
		// The caller may have stopped waiting.
		if _, asked := d.answers[one.Written.Number]; asked {
			d.answers[one.Written.Number] = one.Written
			d.m.notify()
		}
	}
	return nil
}

// take keeps new segments.
func (d *drain) take(items []held) error {
	m := d.m
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, one := range items {
		if one.Role != roleSegment || m.segments[one.Epoch] != nil || m.over {
			closeAll([]int{one.fd})
			continue
		}
		made, err := openSegment(one.fd, false)
		if err == nil && made.snapshot && m.writing == nil && m.log.follows(made.epoch) {
			if err = m.startFrom(made); err == nil {
				continue
			}
		}
		if err != nil {
			closeHeld(items[i:])
			return err
		}
		m.putSegment(made)
	}
	m.follow()
	m.notify()
	return nil
}
