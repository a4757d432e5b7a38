//go:build linux

package fdbroker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	protocolVersion = 1
	intentJoin      = 1
	intentBack      = 2
	intentDraining  = 4
	connectPause    = 20 * time.Millisecond
)

var capabilities = []string{"writes"}

// instance names this process.
var instance = sync.OnceValue(newID)

// newID gives a random name, in the form of a UUID.
func newID() string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// connect gives a channel to the listening process, if that may be believed: this user or root, in a folder that no other user may write to.
// Without a listening process connect tries again until the context ends.
func connect(ctx context.Context, control string) (*channel, error) {
	for {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: control, Net: "unix"})
		if err == nil {
			if err := checkTrust(conn, control); err != nil {
				conn.Close()
				return nil, err
			}
			return newChannel(conn), nil
		}
		absent := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EAGAIN)
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			return nil, passing("ERR_FDB_NO_DESCRIPTORS", "no descriptor for a connection to %s: %v", control, err)
		}
		if !absent {
			return nil, fault("ERR_FDB_CONTROL_PATH", "cannot connect to %s: %v", control, err)
		}
		select {
		case <-ctx.Done():
			return nil, passing("ERR_FDB_CONTROL_PATH", "nobody listens at %s: is fd-broker serve running? (%v)", control, err)
		case <-time.After(connectPause):
		}
	}
}

func checkTrust(conn *net.UnixConn, control string) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *syscall.Ucred
	var asked error
	if err := raw.Control(func(fd uintptr) {
		peer, asked = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if asked != nil {
		return asked
	}
	own := uint32(os.Geteuid())
	trusted := func(uid uint32) bool { return uid == 0 || uid == own }
	if !trusted(peer.Uid) {
		return fault("ERR_FDB_DENIED", "%s is not to be trusted: a process of uid %d listens there", control, peer.Uid)
	}
	var folder syscall.Stat_t
	if err := syscall.Stat(filepath.Dir(control), &folder); err != nil {
		return fault("ERR_FDB_CONTROL_PATH", "cannot look at the folder of %s: %v", control, err)
	}
	open := folder.Mode&0o022 != 0 && folder.Mode&syscall.S_ISVTX == 0
	if !trusted(folder.Uid) || open {
		return fault("ERR_FDB_CONTROL_PATH", "others may replace %s: use a folder of your own, mode 0700", control)
	}
	return nil
}

// greeting is the answer to a Hello. The receiver owns the descriptors.
type greeting struct {
	*welcome
	// pidfd of the holder; -1: it sent none.
	pidfd int
	// rest has come behind the Welcome.
	rest []message
}

func (g *greeting) close() {
	closeAll([]int{g.pidfd})
	closeFds(g.rest)
}

// greet says Hello, and waits for the Welcome as long as the context lasts.
func greet(ctx context.Context, c *channel, with hello) (*greeting, error) {
	with.VersionMin, with.VersionMax = protocolVersion, protocolVersion
	with.Capabilities = append(with.Capabilities, capabilities...)
	with.Pid, with.Instance = uint64(os.Getpid()), instance()
	own, err := pidfdOfSelf()
	if err != nil {
		return nil, err
	}
	err = c.send(envelope{Hello: &with}, own...)
	closeAll(own)
	if err != nil {
		return nil, err
	}
	c.greeted = true
	stop := context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		messages, err := c.receive()
		if err != nil {
			if ctx.Err() != nil {
				return nil, passing("ERR_FDB_DEADLINE", "the holder did not answer our Hello: %v", ctx.Err())
			}
			var said *Error
			if errors.As(err, &said) {
				return nil, said
			}
			return nil, passing("ERR_FDB_CHANNEL_CLOSED", "the holder closed the connection before its Welcome")
		}
		for i, one := range messages {
			if one.Welcome != nil {
				got := &greeting{welcome: one.Welcome, pidfd: -1, rest: messages[i+1:]}
				if len(one.fds) > 0 {
					got.pidfd = one.fds[0]
					closeAll(one.fds[1:])
				}
				if !stop() {
					got.close()
					return nil, passing("ERR_FDB_DEADLINE", "the holder did not answer our Hello: %v", context.Cause(ctx))
				}
				return got, nil
			}
			closeAll(one.fds)
			if no := one.Reject; no != nil {
				closeFds(messages[i+1:])
				return nil, told(no.Code, no.Message, no.Retryable, "ERR_FDB_REJECTED")
			}
		}
	}
}
