//go:build linux

package fdbroker

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// sendLimit is how long a peer may not take a frame.
const sendLimit = 10 * time.Second

// message is the content of one frame. The receiver owns its descriptors.
type message struct {
	envelope
	fds []int
}

// channel has Envelopes with descriptors over a Unix stream socket, which it owns. One goroutine receives; any may send, and does not wait:
// frames leave in the order in which they were given.
type channel struct {
	conn       *net.UnixConn
	decoder    frameDecoder
	in, oob    []byte
	broken     error
	receivedAt atomic.Int64
	// greeted: Hello was sent; nothing else may be the first message.
	greeted bool

	mu     sync.Mutex
	queue  []outgoing
	ending bool
	wake   chan struct{}
	// flushed is closed when nothing will be sent any more.
	flushed chan struct{}
}

// outgoing owns its descriptors.
type outgoing struct {
	data []byte
	fds  []int
}

func newChannel(conn *net.UnixConn) *channel {
	c := &channel{
		conn:    conn,
		in:      make([]byte, 64<<10),
		oob:     make([]byte, syscall.CmsgSpace(fdsPerBatch*4)),
		wake:    make(chan struct{}, 1),
		flushed: make(chan struct{}),
	}
	c.receivedAt.Store(time.Now().UnixNano())
	go c.run()
	return c
}

var errChannelClosed = passing("ERR_FDB_CHANNEL_CLOSED", "the channel is closed")

// send borrows the descriptors.
func (c *channel) send(said envelope, fds ...int) error {
	data, err := makeFrame(marshal(&said), len(fds))
	if err != nil {
		return err
	}
	own := make([]int, 0, len(fds))
	for _, fd := range fds {
		one, err := dup(fd)
		if err != nil {
			closeAll(own)
			return err
		}
		own = append(own, one)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending {
		closeAll(own)
		return errChannelClosed
	}
	c.queue = append(c.queue, outgoing{data, own})
	c.nudge()
	return nil
}

// mostUnread is how much a peer may leave unread before nothing is sent that may be left out: the socket of one that is stopped keeps room for what matters.
const mostUnread = 52 << 10

// beat sends a heartbeat, if the peer reads.
func (c *channel) beat(said heartbeat) error { return c.hint(envelope{Heartbeat: &said}) }

// hint sends what may be left out, if the peer reads.
func (c *channel) hint(said envelope) error {
	c.mu.Lock()
	waits := len(c.queue) > 0
	c.mu.Unlock()
	if waits || c.unread() >= mostUnread {
		return nil
	}
	return c.send(said)
}

// unread is what the peer has not read; 0 where the kernel does not tell.
func (c *channel) unread() int {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return 0
	}
	var count int32
	raw.Control(func(fd uintptr) {
		syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&count)))
	})
	return int(count)
}

func (c *channel) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run sends what is queued, and closes the connection when that was all.
func (c *channel) run() {
	defer close(c.flushed)
	defer c.conn.Close()
	for {
		c.mu.Lock()
		queue, ending := c.queue, c.ending
		c.queue = nil
		c.mu.Unlock()
		for i, frame := range queue {
			err := c.write(frame)
			closeAll(frame.fds)
			if err != nil {
				for _, other := range queue[i+1:] {
					closeAll(other.fds)
				}
				c.close()
				c.mu.Lock()
				c.drop()
				c.mu.Unlock()
				return
			}
		}
		if len(queue) == 0 {
			if ending {
				return
			}
			<-c.wake
		}
	}
}

// write sends each batch of descriptors with at least one byte of its own frame.
func (c *channel) write(frame outgoing) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(sendLimit)); err != nil {
		return err
	}
	for data, fds := frame.data, frame.fds; len(data) > 0; {
		part, batch := data, fds
		if len(fds) > fdsPerBatch {
			part, batch = data[:1], fds[:fdsPerBatch]
		}
		var oob []byte
		if len(batch) > 0 {
			oob = syscall.UnixRights(batch...)
		}
		n, _, err := c.conn.WriteMsgUnix(part, oob, nil)
		if err != nil {
			return err
		}
		data, fds = data[n:], fds[len(batch):]
	}
	return nil
}

func (c *channel) drop() {
	for _, frame := range c.queue {
		closeAll(frame.fds)
	}
	c.queue = nil
}

// receive waits for something, and gives every message that is whole. io.EOF: the peer has ended; an Error: what came cannot be taken.
func (c *channel) receive() ([]message, error) {
	if c.broken != nil {
		return nil, c.broken
	}
	n, oobn, flags, _, err := c.conn.ReadMsgUnix(c.in, c.oob)
	fds := rightsIn(c.oob[:oobn])
	if flags&syscall.MSG_CTRUNC != 0 {
		closeAll(fds)
		return nil, passing("ERR_FDB_FDS_TRUNCATED", "descriptors were lost on arrival: raise RLIMIT_NOFILE")
	}
	if err != nil || n == 0 {
		closeAll(fds)
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			return nil, err
		}
		return nil, io.EOF
	}
	c.receivedAt.Store(time.Now().UnixNano())
	if err := c.decoder.push(c.in[:n], fds); err != nil {
		return nil, err
	}
	var messages []message
	for {
		payload, fds, ok, err := c.decoder.next()
		if err == nil && !ok {
			return messages, nil
		}
		got := message{fds: fds}
		if err == nil {
			if err = unmarshal(payload, &got.envelope, mostEnvelopeFields); err != nil {
				closeAll(fds)
			}
		}
		if err != nil {
			// Messages that came whole before the failure count.
			c.broken = err
			if len(messages) == 0 {
				return nil, err
			}
			return messages, nil
		}
		messages = append(messages, got)
	}
}

func rightsIn(oob []byte) []int {
	var fds []int
	controls, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range controls {
		if got, err := syscall.ParseUnixRights(&controls[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

// finish sends what was given, and closes then. [channel.flushed] tells when.
func (c *channel) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ending = true
	c.nudge()
}

// close does not wait for unsent bytes. The receiver sees the end.
func (c *channel) close() {
	c.mu.Lock()
	c.ending = true
	c.drop()
	c.nudge()
	c.mu.Unlock()
	c.conn.Close()
}

// release is for the receiver: also closes the descriptors of an unfinished frame.
func (c *channel) release() {
	c.close()
	c.decoder.close()
}

// decline is for a joiner that gives up before it has taken the Offer: the next Offer need not wait for the end of this process.
func (c *channel) decline(why error) {
	if c.greeted {
		said := coded(why)
		c.send(envelope{Abort: &abort{said.Code, said.Message, "joining"}})
	}
	c.finish()
	// A new attempt must not reach the holder first.
	select {
	case <-c.flushed:
	case <-time.After(time.Second):
	}
	c.decoder.close()
}

func closeFds(messages []message) {
	for _, one := range messages {
		closeAll(one.fds)
	}
}
