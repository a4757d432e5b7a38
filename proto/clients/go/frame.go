//go:build linux

package fdbroker

import "encoding/binary"

const (
	frameHeader    = 8
	frameMagic     = 0xFD
	framingVersion = 1
	fdsPerBatch    = 253
	mostFrameFds   = frameHeader * fdsPerBatch
	mostPayload    = 16 << 20
	// An Envelope of Fds has some thousand fields; what has more of them costs more to read than to send.
	mostEnvelopeFields = 40_000
)

// makeFrame gives one frame: eight bytes of header, then the payload.
func makeFrame(payload []byte, fds int) ([]byte, error) {
	if len(payload) > mostPayload {
		return nil, fault("ERR_FDB_FRAME_TOO_LARGE", "%d bytes are more than %d", len(payload), mostPayload)
	}
	if fds > mostFrameFds {
		return nil, fault("ERR_FDB_FRAME_TOO_MANY_FDS", "%d descriptors are more than %d", fds, mostFrameFds)
	}
	out := make([]byte, frameHeader, frameHeader+len(payload))
	out[0], out[1] = frameMagic, framingVersion
	binary.LittleEndian.PutUint16(out[2:], uint16(fds))
	binary.LittleEndian.PutUint32(out[4:], uint32(len(payload)))
	return append(out, payload...), nil
}

// frameDecoder makes frames of the results of recvmsg, in that order. Descriptors come no later than the first byte that they were sent
// with. The decoder owns them until they are taken.
type frameDecoder struct {
	bytes []byte
	fds   []int
}

func (d *frameDecoder) push(data []byte, fds []int) error {
	d.bytes = append(d.bytes, data...)
	d.fds = append(d.fds, fds...)
	if len(d.fds) > mostFrameFds+fdsPerBatch {
		return fault("ERR_FDB_FDS_UNEXPECTED", "more descriptors wait than frames may have")
	}
	return nil
}

// next gives the payload and the descriptors of a frame; ok is false when more is needed.
func (d *frameDecoder) next() (payload []byte, fds []int, ok bool, err error) {
	head := d.bytes
	if len(head) > 0 && head[0] != frameMagic {
		return nil, nil, false, fault("ERR_FDB_NOT_FD_BROKER", "the first byte of a frame is %#x, not 0xfd", head[0])
	}
	if len(head) > 1 && head[1] != framingVersion {
		return nil, nil, false, fault("ERR_FDB_NOT_FD_BROKER", "the peer uses framing version %d, not %d", head[1], framingVersion)
	}
	unclaimed := fault("ERR_FDB_FDS_UNEXPECTED", "descriptors arrived that no frame claims")
	if len(head) < frameHeader {
		if len(head) == 0 && len(d.fds) > 0 {
			return nil, nil, false, unclaimed
		}
		return nil, nil, false, nil
	}
	claimed := int(binary.LittleEndian.Uint16(head[2:]))
	length := binary.LittleEndian.Uint32(head[4:])
	if length > mostPayload {
		return nil, nil, false, fault("ERR_FDB_FRAME_TOO_LARGE", "a frame of %d bytes is more than %d", length, mostPayload)
	}
	if claimed > mostFrameFds {
		return nil, nil, false, fault("ERR_FDB_FRAME_TOO_MANY_FDS", "a frame with %d descriptors", claimed)
	}
	whole := frameHeader + int(length)
	if len(head) < whole {
		if len(d.fds) > claimed {
			return nil, nil, false, unclaimed
		}
		return nil, nil, false, nil
	}
	if len(d.fds) < claimed {
		why := "a frame announced %d descriptors and brought %d"
		return nil, nil, false, fault("ERR_FDB_FDS_MISSING", why, claimed, len(d.fds))
	}
	payload = append([]byte(nil), head[frameHeader:whole]...)
	fds = append([]int(nil), d.fds[:claimed]...)
	d.bytes, d.fds = head[whole:], d.fds[claimed:]
	return payload, fds, true, nil
}

func (d *frameDecoder) close() {
	closeAll(d.fds)
	d.fds = nil
}
