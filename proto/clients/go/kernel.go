//go:build linux

package fdbroker

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

// Constants of the kernel that package syscall does not have.

const (
	soCookie      = 57
	fGetSeals     = 1034
	fSealWrite    = 8
	sysPidfdOpen  = 434 // on every architecture
	fDupfdCloexec = 1030
	pollIn        = 1
)

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			syscall.Close(fd)
		}
	}
}

// dup is close-on-exec from birth.
func dup(fd int) (int, error) {
	made, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), fDupfdCloexec, 0)
	if errno != 0 {
		return -1, os.NewSyscallError("dup", errno)
	}
	return int(made), nil
}

// pidfdOfSelf is nothing where the kernel has no pidfds.
func pidfdOfSelf() ([]int, error) {
	fd, _, errno := syscall.Syscall(sysPidfdOpen, uintptr(os.Getpid()), 0, 0)
	switch errno {
	case 0:
		return []int{int(fd)}, nil
	case syscall.ENOSYS, syscall.EPERM:
		return nil, nil
	}
	// None is left, say: without it the holder could not prove this process's death.
	return nil, passing("ERR_FDB_NO_DESCRIPTORS", "no descriptor for this process: %v", os.NewSyscallError("pidfd_open", errno))
}

// hasEnded reports whether the process of a pidfd has ended.
func hasEnded(pidfd int) bool {
	poll := struct {
		fd              int32
		events, revents int16
	}{fd: int32(pidfd), events: pollIn}
	now := syscall.NsecToTimespec(int64(0 * time.Second))
	n, _, errno := syscall.Syscall6(
		syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0,
	)
	return errno == 0 && n == 1 && poll.revents&pollIn != 0
}

// isSealed reports whether a memory file can no longer be written. Asks the kernel each time.
func isSealed(fd int) bool {
	seals, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), fGetSeals, 0)
	return errno == 0 && seals&fSealWrite != 0
}

func sizeOf(fd int) (int64, error) {
	var found syscall.Stat_t
	if err := syscall.Fstat(fd, &found); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	return found.Size, nil
}

// cookieOf is 0 where the kernel tells none.
func cookieOf(fd int) uint64 {
	var cookie uint64
	size := uint32(unsafe.Sizeof(cookie))
	_, _, errno := syscall.Syscall6(
		syscall.SYS_GETSOCKOPT, uintptr(fd), syscall.SOL_SOCKET, soCookie,
		uintptr(unsafe.Pointer(&cookie)), uintptr(unsafe.Pointer(&size)), 0,
	)
	if errno != 0 {
		return 0
	}
	return cookie
}
