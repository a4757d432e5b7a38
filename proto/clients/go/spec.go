//go:build linux

package fdbroker

import (
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
)

const defaultBacklog = 511

// listenSpec is where a listener listens.
type listenSpec struct {
	path      string // of a Unix socket; else:
	host      netip.Addr
	both      bool // `*`: IPv6 and IPv4
	port      uint16
	backlog   int
	mode      os.FileMode
	hasMode   bool
	reusePort bool
}

// parseSpec reads `tcp://HOST:PORT`, `tcp://[V6]:PORT`, `tcp://*:PORT` or `unix:/PATH`, with `?backlog=N`, `?reusePort`, `?mode=0660`.
func parseSpec(spec string) (listenSpec, error) {
	refuse := func(why string) (listenSpec, error) {
		return listenSpec{}, fault("ERR_FDB_SPEC", "the listener %s is wrong: %s", spec, why)
	}
	head, query, _ := strings.Cut(spec, "?")
	options, err := url.ParseQuery(query)
	if err != nil {
		return refuse(err.Error())
	}
	made := listenSpec{backlog: defaultBacklog}
	for name := range options {
		value := options.Get(name)
		switch name {
		case "backlog":
			if made.backlog, err = strconv.Atoi(value); err != nil || made.backlog < 1 {
				return refuse("its backlog must be a number")
			}
		case "reusePort":
			made.reusePort = value == "" || value == "true" || value == "1"
		case "mode":
			mode, err := strconv.ParseUint(value, 8, 12)
			if err != nil {
				return refuse("its mode must be octal")
			}
			made.mode, made.hasMode = os.FileMode(mode), true
		default:
			return refuse(name + " is not known here")
		}
	}
	if path, ok := strings.CutPrefix(head, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		made.path = strings.ReplaceAll(strings.ReplaceAll(path, "%3F", "?"), "%25", "%")
		if !strings.HasPrefix(made.path, "/") {
			return refuse("its path must be absolute")
		}
		return made, nil
	}
	address, ok := strings.CutPrefix(head, "tcp://")
	if !ok {
		return refuse("write tcp://HOST:PORT or unix:/PATH")
	}
	colon := strings.LastIndexByte(address, ':')
	if colon < 0 {
		return refuse("its port is missing")
	}
	port, err := strconv.ParseUint(address[colon+1:], 10, 16)
	if err != nil {
		return refuse("its port is missing")
	}
	made.port = uint16(port)
	host := strings.TrimSuffix(strings.TrimPrefix(address[:colon], "["), "]")
	if made.both = host == "*"; made.both {
		host = "::"
	}
	if made.host, err = netip.ParseAddr(host); err != nil || made.host.Zone() != "" {
		return refuse("its host must be an IP address")
	}
	return made, nil
}

// sameAddress: options are no part of where a listener listens.
func sameAddress(one, other listenSpec) bool {
	return one.path == other.path && one.host == other.host && one.both == other.both && one.port == other.port
}

// bind gives a listening socket, close-on-exec and non-blocking from birth.
func bind(spec listenSpec) (int, error) {
	family := syscall.AF_INET
	switch {
	case spec.path != "":
		family = syscall.AF_UNIX
	case spec.host.Is6():
		family = syscall.AF_INET6
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err == nil {
		if err = bindSocket(fd, spec); err == nil {
			return fd, nil
		}
		syscall.Close(fd)
	}
	where := spec.path
	if where == "" {
		where = spec.host.String() + " port " + strconv.Itoa(int(spec.port))
	}
	return -1, fault("ERR_FDB_BIND", "cannot listen on %s: %v", where, err)
}

func (s listenSpec) String() string {
	if s.path != "" {
		return "unix:" + s.path
	}
	return "tcp://" + netip.AddrPortFrom(s.host, s.port).String()
}

func bindSocket(fd int, spec listenSpec) error {
	if spec.path != "" {
		return bindPath(fd, spec)
	}
	options := []struct{ level, option, value int }{{syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1}}
	if spec.reusePort {
		options = append(options, struct{ level, option, value int }{syscall.SOL_SOCKET, 15, 1})
	}
	var address syscall.Sockaddr = &syscall.SockaddrInet4{Port: int(spec.port)}
	if spec.host.Is6() {
		only := 1
		if spec.both {
			only = 0
		}
		options = append(options, struct{ level, option, value int }{syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, only})
		address = &syscall.SockaddrInet6{Port: int(spec.port), Addr: spec.host.As16()}
	} else {
		address.(*syscall.SockaddrInet4).Addr = spec.host.As4()
	}
	for _, one := range options {
		if err := syscall.SetsockoptInt(fd, one.level, one.option, one.value); err != nil {
			return err
		}
	}
	if err := syscall.Bind(fd, address); err != nil {
		return err
	}
	return syscall.Listen(fd, spec.backlog)
}

func bindPath(fd int, spec listenSpec) error {
	address := &syscall.SockaddrUnix{Name: spec.path}
	err := syscall.Bind(fd, address)
	if err == syscall.EADDRINUSE && abandoned(spec.path) {
		if err = os.Remove(spec.path); err == nil {
			err = syscall.Bind(fd, address)
		}
	}
	if err != nil {
		return err
	}
	if spec.hasMode {
		if err := os.Chmod(spec.path, spec.mode); err != nil {
			return err
		}
	}
	return syscall.Listen(fd, spec.backlog)
}

// abandoned reports whether path has a socket without a listening process.
func abandoned(path string) bool {
	found, err := os.Lstat(path)
	if err != nil || found.Mode()&os.ModeSocket == 0 {
		return false
	}
	probe, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer syscall.Close(probe)
	return syscall.Connect(probe, &syscall.SockaddrUnix{Name: path}) == syscall.ECONNREFUSED
}
