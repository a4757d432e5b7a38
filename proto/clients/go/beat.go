//go:build linux

package fdbroker

import (
	"context"
	"encoding/json"
	"os"
	"time"
)

const (
	defaultHeartbeat = 250 * time.Millisecond
	defaultSilence   = 3 * time.Second
	defaultFreeze    = time.Second
	defaultQuiesce   = 10 * time.Second
	healthLimit      = 3 * time.Second
)

// healthWatch has what the application said last of its health.
type healthWatch struct {
	running bool
	since   time.Time
	err     error
	asked   bool
}

// every is how often the holder hears from this process.
func (m *Member) every() time.Duration {
	own := orElse(m.options.Times.Heartbeat, defaultHeartbeat)
	if m.holder != nil && m.holder.HeartbeatMs > 0 {
		return min(own, time.Duration(m.holder.HeartbeatMs)*time.Millisecond)
	}
	return own
}

// silence is how long the holder may say nothing: at least three of its heartbeats.
func (m *Member) silence() time.Duration {
	own := orElse(m.options.Times.Silence, defaultSilence)
	if m.holder == nil {
		return own
	}
	return max(own, 3*time.Duration(m.holder.HeartbeatMs)*time.Millisecond)
}

// beat tells the holder of this process's health until the member has ended.
func (m *Member) beat() {
	ticked := time.Now()
	for {
		m.mu.RLock()
		every := m.every()
		m.mu.RUnlock()
		select {
		case <-m.ended:
			return
		case <-m.beatAt:
		case <-time.After(every):
		}
		m.mu.Lock()
		now := time.Now()
		if now.Sub(ticked) > 2*every {
			// Stopped, or busy: silence counts from its awakening.
			m.awakeSince = now
		}
		ticked = now
		m.askHealth(now)
		if m.beats && m.link != nil {
			m.beatOnce(now)
		}
		m.mu.Unlock()
	}
}

func (m *Member) beatOnce(now time.Time) {
	said := heartbeat{Healthy: true, Report: m.report()}
	if err := m.unwell(now); err != "" {
		said.Healthy, said.Unwell = false, err
	}
	if m.lastRequests.rollsBack {
		said.Healthy, said.Unwell, said.RollsBack = false, "an operator has rolled this member back", true
	}
	link := m.link
	if link.beat(said) != nil {
		link.close()
	}
	heard := time.Unix(0, link.receivedAt.Load())
	if m.awakeSince.After(heard) {
		heard = m.awakeSince
	}
	if link != m.link {
		return
	}
	if now.Sub(heard) > m.silence() {
		m.step(event{Type: "silent"})
	} else {
		m.step(event{Type: "heard"})
	}
}

// beatNow: the next heartbeat does not wait.
func (m *Member) beatNow() {
	select {
	case m.beatAt <- struct{}{}:
	default:
	}
}

func (m *Member) askHealth(now time.Time) {
	if m.options.Health == nil || m.health.running || !m.beats {
		return
	}
	m.health.running, m.health.since = true, now
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), healthLimit)
		defer cancel()
		err := m.options.Health(ctx)
		m.mu.Lock()
		defer m.mu.Unlock()
		first := !m.health.asked
		m.health.running, m.health.asked, m.health.err = false, true, err
		if first {
			m.beatNow()
		}
	}()
}

// unwell is empty while the application is well. Before it has answered once it is not known to be.
func (m *Member) unwell(now time.Time) string {
	h := m.health
	switch {
	case m.options.Health == nil:
		return ""
	case h.running && now.Sub(h.since) > healthLimit:
		return "its health check does not answer"
	case !h.asked:
		return "its health check has not answered yet"
	case h.err != nil:
		return h.err.Error()
	}
	return ""
}

func (m *Member) report() string {
	said, _ := json.Marshal(map[string]any{"pid": os.Getpid(), "generation": m.generation, "phase": m.state.Phase})
	return string(said)
}
