//go:build linux

package fdbroker

import (
	"encoding/json"
	"os"
	"runtime"
)

// status is JSON, in the words of this process.
func (m *Member) status() string {
	type listening struct {
		Name      string `json:"name"`
		Accepting bool   `json:"accepting"`
	}
	var listeners []listening
	for name, one := range m.listeners {
		one.mu.Lock()
		listeners = append(listeners, listening{name, one.accepting})
		one.mu.Unlock()
	}
	where, size := m.log.position(), int64(0)
	for _, one := range m.log.segments {
		if bytes, err := sizeOf(one.fd); err == nil {
			size += bytes
		}
	}
	said, _ := json.Marshal(map[string]any{
		"language": runtime.Version(),
		"role":     m.state.Phase,
		"state": map[string]any{
			"sequence": where.Sequence, "digest": where.Digest, "entries": m.log.count, "bytes": size, "segments": len(m.log.segments),
		},
		"listeners": listeners,
	})
	return string(said)
}

func (m *Member) answerUpgrade(asked *upgradeRequest) {
	m.tell(envelope{Result: &result{
		Code:    "ERR_FDB_COMMAND_UNKNOWN",
		Message: "a member in Go does not start its successor: start the next version yourself, it joins by itself",
		Request: asked.Request,
	}})
}

func (m *Member) answerCommand(asked *command) {
	stop := asked.Name == "service.stop"
	if !stop && asked.Name != "service.rollback" {
		m.tell(envelope{CommandReply: &commandReply{
			Request: asked.Request, Code: "ERR_FDB_COMMAND_UNKNOWN", Message: "this service has no command " + asked.Name,
		}})
		return
	}
	body, _ := json.Marshal(map[string]any{"pid": os.Getpid(), "generation": m.generation})
	m.tell(envelope{CommandReply: &commandReply{Request: asked.Request, OK: true, Body: body}})
	// A stop ends the service: the version that stands by does not come back. The daemon passes a rollback on only if one stands by.
	if stop {
		m.tell(envelope{EndProbation: &endProbation{Closing: true}})
	}
	m.step(event{Type: "leave"})
}
