import { encodeFrame } from '../../src/wire/frame.js'

/** `bytes` is one frame; with `error`, what a receiver refuses it with. `arriving`: descriptors that came with it. */
export interface FrameVector {
  readonly name: string
  readonly bytes: string
  readonly arriving: number
  readonly payload?: string
  readonly fds?: number
  readonly error?: string
}

/** Bytes that arrive in several reads, and the frames in it; with `error`, the reason for which a receiver refuses the bytes behind them. */
export interface StreamVector {
  readonly name: string
  readonly reads: readonly { readonly bytes: string; readonly arriving: number }[]
  readonly frames: readonly { readonly payload: string; readonly fds: number }[]
  readonly error?: string
}

export function streamVectors(): StreamVector[] {
  const [one, two] = [Buffer.from('one'), Buffer.from('two')]
  const [a, b] = [encodeFrame(one, 2), encodeFrame(two, 1)]
  const read = (bytes: Buffer, arriving: number) => ({ bytes: bytes.toString('hex'), arriving })
  const frames = [
    { payload: one.toString('hex'), fds: 2 },
    { payload: two.toString('hex'), fds: 1 },
  ]
  const plain = encodeFrame(two, 0)
  return [
    { name: 'two frames with descriptors in one read', reads: [read(Buffer.concat([a, b]), 3)], frames },
    {
      name: 'the descriptors of the second frame with the end of the first',
      reads: [
        read(a.subarray(0, 9), 2),
        read(Buffer.concat([a.subarray(9), b.subarray(0, 1)]), 1),
        read(b.subarray(1), 0),
      ],
      frames,
    },
    {
      name: 'a frame whose descriptors all come with its first byte',
      reads: [
        read(a.subarray(0, 1), 2),
        read(a.subarray(1, 10), 0),
        read(Buffer.concat([a.subarray(10), b]), 1),
      ],
      frames,
    },
    {
      name: 'descriptors with a frame that announces none',
      reads: [read(plain.subarray(0, 8), 1)],
      frames: [],
      error: 'ERR_FDB_FDS_UNEXPECTED',
    },
    {
      name: 'descriptors behind the last frame',
      reads: [read(Buffer.concat([a, b]), 4)],
      frames,
      error: 'ERR_FDB_FDS_UNEXPECTED',
    },
    {
      name: 'another framing behind a frame',
      reads: [read(Buffer.concat([a, Buffer.from('fd02', 'hex')]), 2)],
      frames: frames.slice(0, 1),
      error: 'ERR_FDB_NOT_FD_BROKER',
    },
    {
      name: 'descriptors that a later frame announces too late',
      reads: [read(encodeFrame(one, 0), 0), read(b, 0)],
      frames: [{ payload: one.toString('hex'), fds: 0 }],
      error: 'ERR_FDB_FDS_MISSING',
    },
  ]
}

function whole(name: string, payload: Buffer, fds: number): FrameVector {
  return {
    name,
    bytes: encodeFrame(payload, fds).toString('hex'),
    arriving: fds,
    payload: payload.toString('hex'),
    fds,
  }
}

export function frameVectors(): FrameVector[] {
  return [
    whole('empty', Buffer.alloc(0), 0),
    whole('three bytes', Buffer.from('abc'), 0),
    whole('two descriptors', Buffer.from([1]), 2),
    whole('300 bytes, 300 descriptors', Buffer.alloc(300, 7), 300),
    { name: 'another protocol', bytes: '474554', arriving: 0, error: 'ERR_FDB_NOT_FD_BROKER' },
    { name: 'another framing', bytes: 'fd02', arriving: 0, error: 'ERR_FDB_NOT_FD_BROKER' },
    {
      name: 'a payload of 4 GiB - 1',
      bytes: 'fd010000ffffffff',
      arriving: 0,
      error: 'ERR_FDB_FRAME_TOO_LARGE',
    },
    {
      name: '2025 descriptors',
      bytes: 'fd01e90700000000',
      arriving: 0,
      error: 'ERR_FDB_FRAME_TOO_MANY_FDS',
    },
    {
      name: 'one descriptor lost',
      bytes: 'fd0102000100000000',
      arriving: 1,
      error: 'ERR_FDB_FDS_MISSING',
    },
    {
      name: 'one descriptor too many',
      bytes: 'fd01000002000000ff',
      arriving: 1,
      error: 'ERR_FDB_FDS_UNEXPECTED',
    },
  ]
}
