//go:build linux

package fdbroker

import (
	"encoding/json"
	"fmt"
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
	reply := commandReply{Request: asked.Request}
	switch {
	case !m.state.in("serving", "frozen", "unfit"):
		reply.Code, reply.Retryable = "ERR_FDB_FENCED", true
		reply.Message = fmt.Sprintf(
			"process %d does not serve (phase %s): connect again to reach the process that does", os.Getpid(), m.state.Phase)
	case asked.Name == "service.stop":
		// Before the reply: a moment later the commit to a next version may be sent, which would serve on.
		m.tell(envelope{CancelUpgrade: &cancelUpgrade{"ERR_FDB_ABORTED", "an operator has stopped the service"}})
		reply.OK, reply.Body = true, m.processReply()
		defer m.lastRequests.leave(m.orderedLimit(asked.Body), false)
	case asked.Name == "service.rollback":
		m.lastRequests.rollBack(asked.Request)
		return
	default:
		reply.Code, reply.Message = "ERR_FDB_COMMAND_UNKNOWN", "this service has no command "+asked.Name
	}
	m.tell(envelope{CommandReply: &reply})
}
