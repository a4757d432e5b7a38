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
