//go:build linux

package fdbroker

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
)

var (
	families    = map[int]string{syscall.AF_INET: "inet", syscall.AF_INET6: "inet6", syscall.AF_UNIX: "unix"}
	socketTypes = map[int]string{syscall.SOCK_STREAM: "stream", syscall.SOCK_DGRAM: "dgram", syscall.SOCK_SEQPACKET: "seqpacket"}
	fileTypes   = map[uint32]string{
		syscall.S_IFREG: "file", syscall.S_IFDIR: "dir", syscall.S_IFIFO: "fifo", syscall.S_IFCHR: "char", syscall.S_IFBLK: "block",
		syscall.S_IFSOCK: "socket", 0: "anon",
	}
)

func named[K comparable](names map[K]string, key K) string {
	if name, ok := names[key]; ok {
		return name
	}
	return "other"
}

// identityOf is what the kernel says of a descriptor.
func identityOf(fd int) (*identity, error) {
	var found syscall.Stat_t
	if err := syscall.Fstat(fd, &found); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	is := &identity{
		Type: named(fileTypes, uint32(found.Mode)&syscall.S_IFMT),
		Dev:  fmt.Sprint(found.Dev),
		Ino:  fmt.Sprint(found.Ino),
	}
	if is.Type != "socket" {
		return is, nil
	}
	facts := make([]int, 4)
	for i, option := range []int{syscall.SO_DOMAIN, syscall.SO_TYPE, syscall.SO_PROTOCOL, syscall.SO_ACCEPTCONN} {
		value, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, option)
		if err != nil {
			return nil, os.NewSyscallError("getsockopt", err)
		}
		facts[i] = value
	}
	is.Family, is.SocketType = named(families, facts[0]), named(socketTypes, facts[1])
	is.Protocol, is.Accepting = uint64(facts[2]), facts[3] > 0
	if cookie := cookieOf(fd); cookie > 0 {
		is.Cookie = strconv.FormatUint(cookie, 10)
	}
	return is, nil
}

// difference says why a descriptor is not the one that was announced; empty: it is.
func difference(told, got *identity) string {
	if told == nil {
		told = &identity{}
	}
	if told.Type != got.Type {
		return fmt.Sprintf("expected a %s, got a %s", told.Type, got.Type)
	}
	if got.Type == "socket" {
		for _, fact := range []struct {
			name      string
			told, got any
		}{
			{"family", told.Family, got.Family},
			{"socket_type", told.SocketType, got.SocketType},
			{"protocol", told.Protocol, got.Protocol},
			{"accepting", told.Accepting, got.Accepting},
		} {
			if fact.told != fact.got {
				return fmt.Sprintf("%s should be %v, got %v", fact.name, fact.told, fact.got)
			}
		}
		if told.Cookie != "" && got.Cookie != "" {
			if told.Cookie != got.Cookie {
				return "it is another socket"
			}
			return ""
		}
	}
	if told.Dev != got.Dev || told.Ino != got.Ino {
		return "it is another file or socket"
	}
	return ""
}

// verify compares what came with what was announced: each descriptor, or nothing is taken.
func verify(items []item, fds []int) error {
	if len(items) != len(fds) {
		return fault("ERR_FDB_FDS_MISSING", "%d descriptors are named and %d came", len(items), len(fds))
	}
	for i, fd := range fds {
		got, err := identityOf(fd)
		if err != nil {
			return fault("ERR_FDB_FD_MISMATCH", "descriptor %q cannot be looked at: %v", items[i].Name, err)
		}
		if why := difference(items[i].Identity, got); why != "" {
			return fault("ERR_FDB_FD_MISMATCH", "descriptor %q is not what was announced: %s", items[i].Name, why)
		}
	}
	return nil
}
