//go:build linux

package fdbroker

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"syscall"
)

const (
	stateMagic   = "fdb-state"
	stateFormat  = 1
	kindSnapshot = 1

	mostHeader  = 4096
	mostRecord  = 16 << 20
	mostChanges = 500_000
	// A record's fields: changes with all of theirs, and room for schemas.
	mostRecordFields = 8 * mostChanges
)

// stateFrame gives a frame of the log: length and CRC-32, both 32 bits and little-endian, then the payload.
func stateFrame(payload []byte) []byte {
	out := make([]byte, 8, 8+len(payload))
	binary.LittleEndian.PutUint32(out, uint32(len(payload)))
	binary.LittleEndian.PutUint32(out[4:], crc32.ChecksumIEEE(payload))
	return append(out, payload...)
}

// segment is one memory file of the log, and owns its descriptor. The file is never mapped for writing: that would keep the holder from sealing it.
type segment struct {
	fd       int
	writable bool
	epoch    uint64
	snapshot bool
	// start is where the first record begins, end where reading goes on: behind the last whole record.
	start, end int64
	// final: sealed, and read to its end.
	final bool
}

// openSegment takes the descriptor only when it gives no error.
func openSegment(fd int, writable bool) (*segment, error) {
	head := make([]byte, 8+mostHeader)
	n, err := preadAll(fd, head, 0)
	if err != nil {
		return nil, fault("ERR_FDB_STATE_FORMAT", "not a state segment: %v", err)
	}
	head = head[:n]
	none := fault("ERR_FDB_STATE_FORMAT", "not a state segment: it begins with no header")
	if len(head) < 8 {
		return nil, none
	}
	length, checksum := int64(binary.LittleEndian.Uint32(head)), binary.LittleEndian.Uint32(head[4:])
	if length == 0 || length > mostHeader || length > int64(len(head)-8) {
		return nil, none
	}
	payload := head[8 : 8+length]
	if crc32.ChecksumIEEE(payload) != checksum {
		return nil, none
	}
	var told header
	if unmarshal(payload, &told, mostHeader) != nil || told.Magic != stateMagic {
		return nil, fault("ERR_FDB_STATE_FORMAT", "not a state segment: its header says something else")
	}
	if told.Format != stateFormat || told.Kind > kindSnapshot {
		return nil, fault("ERR_FDB_STATE_FORMAT", "the segment has format %d: use a newer release", told.Format)
	}
	start := 8 + length
	return &segment{
		fd: fd, writable: writable, epoch: told.Epoch, snapshot: told.Kind == kindSnapshot, start: start, end: start,
	}, nil
}

// preadAll reads until the slice is full or the file ends.
func preadAll(fd int, into []byte, at int64) (int, error) {
	read := 0
	for read < len(into) {
		n, err := syscall.Pread(fd, into[read:], at+int64(read))
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return read, os.NewSyscallError("pread", err)
		}
		if n == 0 {
			break
		}
		read += n
	}
	return read, nil
}

func (s *segment) sealed() bool { return isSealed(s.fd) }

// bare reports whether nothing was ever written in it.
func (s *segment) bare() bool {
	size, err := sizeOf(s.fd)
	return err == nil && size <= s.start
}

func (s *segment) damaged(format string, args ...any) *Error {
	why := fault("ERR_FDB_STATE_DAMAGED", format, args...)
	return fault("ERR_FDB_STATE_DAMAGED", "the segment of epoch %d is damaged at offset %d: %s", s.epoch, s.end, why.Message)
}

// next gives the record at end; io.EOF: there is none that is whole. The caller moves end with what it returns.
func (s *segment) next(sealed bool, size int64) (*record, int64, error) {
	var head [8]byte
	if s.end >= size {
		return nil, 0, io.EOF
	}
	if n, err := preadAll(s.fd, head[:], s.end); err != nil {
		return nil, 0, err
	} else if n < len(head) {
		return nil, 0, io.EOF
	}
	length, checksum := int64(binary.LittleEndian.Uint32(head[:])), binary.LittleEndian.Uint32(head[4:])
	following := s.end + 8 + length
	if length == 0 || following > size {
		return nil, 0, io.EOF
	}
	if length > mostRecord {
		return nil, 0, fault("ERR_FDB_STATE_LIMIT", "a record of %d bytes", length)
	}
	payload := make([]byte, length)
	if n, err := preadAll(s.fd, payload, s.end+8); err != nil {
		return nil, 0, err
	} else if int64(n) < length {
		return nil, 0, io.EOF
	}
	if crc32.ChecksumIEEE(payload) != checksum {
		if !sealed || following == size {
			return nil, 0, io.EOF
		}
		return nil, 0, s.damaged("wrong checksum, and more behind it")
	}
	one := &record{}
	if err := unmarshal(payload, one, mostRecordFields); err != nil {
		return nil, 0, s.damaged("%v", err)
	}
	if one.Epoch != s.epoch {
		return nil, 0, s.damaged("a record of epoch %d", one.Epoch)
	}
	return one, following, nil
}

// append writes whole frames at the end; false: the right to write here has ended.
func (s *segment) append(data []byte) (bool, error) {
	written := 0
	for written < len(data) {
		n, err := syscall.Pwrite(s.fd, data[written:], s.end+int64(written))
		if err == syscall.EINTR {
			continue
		}
		if errors.Is(err, syscall.EPERM) {
			return false, nil
		}
		if err != nil {
			// Half a record must not stand before the next.
			s.cut(int64(written))
			return false, passing("ERR_FDB_STATE_FULL", "the state cannot be written: %v", err)
		}
		written += n
	}
	s.end += int64(written)
	return true, nil
}

// cut takes away so many bytes behind the last whole record, or blanks them where a seal forbids to cut.
func (s *segment) cut(bytes int64) {
	if bytes <= 0 || s.sealed() || syscall.Ftruncate(s.fd, s.end) == nil {
		return
	}
	zeros := make([]byte, min(bytes, 1<<20))
	for at := int64(0); at < bytes; at += int64(len(zeros)) {
		if _, err := syscall.Pwrite(s.fd, zeros[:min(bytes-at, int64(len(zeros)))], s.end+at); err != nil {
			return
		}
	}
}

func (s *segment) close() { syscall.Close(s.fd) }
