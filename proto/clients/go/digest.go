package fdbroker

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
)

// digest is of a set of entries, whatever their order: the SHA-256 of each, added in eight lanes of 32 bits.
type digest [8]uint32

func (d *digest) add(section, key string, value []byte) {
	for i, lane := range lanesOf(section, key, value) {
		d[i] += lane
	}
}

func (d *digest) remove(section, key string, value []byte) {
	for i, lane := range lanesOf(section, key, value) {
		d[i] -= lane
	}
}

func lanesOf(section, key string, value []byte) (lanes [8]uint32) {
	data := make([]byte, 0, 12+len(section)+len(key)+len(value))
	for _, length := range []int{len(section), len(key), len(value)} {
		data = binary.LittleEndian.AppendUint32(data, uint32(length))
	}
	data = append(append(append(data, section...), key...), value...)
	sum := sha256.Sum256(data)
	for i := range lanes {
		lanes[i] = binary.LittleEndian.Uint32(sum[4*i:])
	}
	return lanes
}

func (d digest) String() string {
	var out strings.Builder
	for _, lane := range d {
		fmt.Fprintf(&out, "%08x", lane)
	}
	return out.String()
}
