import { fdbroker } from '../../src/proto/wire.js'
import type { WireBody } from '../../src/wire/link.js'

const { Envelope, Intent, Item, Written } = fdbroker.wire

/** `bytes` is the Envelope; `message` the same in JSON, bytes in base64, numbers for enums. */
export interface MessageVector {
  readonly name: string
  readonly bytes: string
  readonly message: object
  /** The bytes have what `message` does not know: they decode to it, and are not made of it. */
  readonly decodeOnly?: true
  /** With what code a receiver refuses the bytes; `message` is empty then. */
  readonly error?: string
}

const digest = '0123456789abcdef'.repeat(4)
const position = { epoch: 3, sequence: 41, digest }
const code = 'ERR_FDB_DEADLINE'
const message = 'Grüße: it took too long'

const BODIES: Record<string, WireBody> = {
  'hello of a joiner': {
    hello: {
      versionMin: 1,
      versionMax: 1,
      capabilities: ['connections', 'writes'],
      service: 'shop',
      intent: Intent.JOIN,
      pid: 4711,
      times: { ready: 60_000, freeze: 1_000, probation: 0, heartbeat: 250 },
      instance: '6c0f5d1e-2b7a-4a3c-9d61-0a4b8f7e2c11',
      stateFile: '/var/lib/shop/state',
    },
  },
  'hello of one that comes back': {
    hello: {
      versionMin: 1,
      versionMax: 1,
      service: 'shop',
      intent: Intent.BACK,
      pid: 4711,
      generation: 4,
      incarnation: 'f3b0',
    },
  },
  'hello of one that drains': {
    hello: {
      versionMin: 1,
      versionMax: 1,
      service: 'shop',
      intent: Intent.DRAINING,
      pid: 4711,
      generation: 4,
      top: 9,
    },
  },
  'hello of one that follows': {
    hello: {
      versionMin: 1,
      versionMax: 1,
      capabilities: ['writes'],
      service: 'shop',
      intent: Intent.FOLLOW,
      pid: 4711,
      generation: 4,
      top: 9,
      follower: 'shop.1',
      serviceStartedAt: 1_770_000_000_000.5,
    },
  },
  welcome: {
    welcome: {
      version: 1,
      capabilities: ['writes'],
      pid: 100,
      daemon: true,
      incarnation: 'f3b0',
      generation: 5,
      serviceStartedAt: 1_700_000_000_000,
      heartbeatMs: 250,
    },
  },
  reject: { reject: { code, message, retryable: true, versionMin: 1, versionMax: 1 } },
  offer: {
    offer: {
      epoch: 4,
      wayBack: 5,
      source: 3,
      items: 3,
      timeoutMs: 60_000,
      quiesceMs: 10_000,
      descriptors: 90,
    },
  },
  fds: {
    fds: {
      index: 1,
      last: true,
      items: [
        {
          role: Item.Role.LISTENER,
          name: 'web',
          spec: 'tcp://127.0.0.1:8080',
          identity: {
            type: 'socket',
            dev: '9',
            ino: '123456789012',
            family: 'inet',
            socketType: 'stream',
            protocol: 6,
            accepting: true,
            cookie: '4097',
            address: '127.0.0.1',
            port: 8080,
          },
        },
        {
          role: Item.Role.SEGMENT,
          epoch: 4,
          writable: true,
          identity: { type: 'file', dev: '1', ino: '77' },
        },
      ],
      bundle: 2,
    },
  },
  'fds ack': { fdsAck: { index: 1, verified: 2, bundle: 2 } },
  ready: { ready: { adopted: ['web', 'admin'], refused: ['old'], position } },
  quiesce: { quiesce: { epoch: 4 } },
  quiesced: { quiesced: { epoch: 4 } },
  unquiesce: { unquiesce: {} },
  freeze: { freeze: {} },
  frozen: { frozen: { position } },
  sealed: { sealed: { position } },
  prepared: { prepared: { position } },
  commit: { commit: { epoch: 4 } },
  serving: { serving: { epoch: 4 } },
  retire: { retire: {} },
  resume: { resume: {} },
  reinstate: { reinstate: { epoch: 5 } },
  released: { released: {} },
  fenced: { fenced: {} },
  gone: { gone: {} },
  abort: { abort: { code, message, phase: 'offering' } },
  unfit: { unfit: { epoch: 5, code: 'ERR_FDB_SCHEMA', message } },
  back: { back: { role: 'serving', epoch: 4, sealed: true, top: 5, unfit: true } },
  heartbeat: { heartbeat: { healthy: true, report: '{"pid":4711}' } },
  'heartbeat of one that is not well': { heartbeat: { report: '{}', unwell: 'its database is gone' } },
  'end of probation': { endProbation: { closing: true } },
  register: { register: { request: 7 } },
  'register, to drop': { register: { item: { name: 'web' }, drop: true } },
  registered: { registered: { request: 7, code, message } },
  'status request': { statusRequest: {} },
  status: { status: { json: '{"pid":4711}' } },
  'upgrade request': {
    upgradeRequest: {
      argv: ['node', 'server.js'],
      timeoutMs: 20_000,
      service: 'shop',
      killStuck: true,
      request: 3,
    },
  },
  progress: { progress: { phase: 'freezing', at: 1_700_000_000_000.5, pid: 4711 } },
  result: {
    result: {
      ok: true,
      code,
      message,
      pid: 4711,
      generation: 5,
      retryable: true,
      phase: 'offering',
      request: 3,
    },
  },
  command: { command: { name: 'shop.reload', body: Buffer.from([0, 255]), service: 'shop', request: 8 } },
  'command reply': {
    commandReply: { request: 8, ok: true, code, message, retryable: true, body: Buffer.from('ok') },
  },
  'tell of what is appended': { tellAppended: { wanted: true } },
  appended: { appended: {} },
  write: {
    write: {
      number: 300,
      request: 'r-1',
      parts: [Buffer.from('one'), Buffer.from('two')],
      more: true,
      reads: [{ section: 'stock', key: 'apple', mark: Buffer.alloc(16, 1) }],
      source: 2,
      durable: true,
    },
  },
  written: {
    written: {
      number: 300,
      outcome: Written.Outcome.APPLIED,
      existed: true,
      sequence: 42,
      code,
      message,
      retryable: true,
    },
  },
}

const UNKNOWN: Record<string, { bytes: string; message: object }> = {
  'a field that is not known, beside one that is': {
    bytes: '62020804a23f03616263',
    message: { commit: { epoch: 4 } },
  },
  'a field that is not known, in a body': {
    bytes: '62050804f83f01',
    message: { commit: { epoch: 4 } },
  },
  'a body that is not known': { bytes: 'a23f03616263', message: {} },
  'a fixed32 that is not known, before a body': {
    bytes: 'c53e0102030462020804',
    message: { commit: { epoch: 4 } },
  },
  'a fixed32 that is not known, in a body': {
    bytes: '6208c53e010203040804',
    message: { commit: { epoch: 4 } },
  },
  'a fixed64 that is not known, in a body': {
    bytes: '620cc13e01020304050607080804',
    message: { commit: { epoch: 4 } },
  },
  'a known field of another type': { bytes: '620508040a0161', message: { commit: { epoch: 4 } } },
  'two bodies, of which the last counts': { bytes: '620208047200', message: { retire: {} } },
}

const MALFORMED: Record<string, string> = {
  'a field of number 0': '0000',
  'a field of a type that there is not': '0e',
  'the end of a group': '0c',
  'a number of eleven bytes': '620c08ffffffffffffffffffff01',
  'a length behind the end': '621008',
  'a fixed32 that is cut': 'c53e0102',
  'a text that is no UTF-8': '9a01040a02c328',
}

export function messageVectors(): MessageVector[] {
  const known = Object.entries(BODIES).map(([name, body]) => ({
    name,
    bytes: Buffer.from(Envelope.encode(body).finish()).toString('hex'),
    message: jsonOf(body) as object,
  }))
  const unknown = Object.entries(UNKNOWN).map(([name, given]) => ({
    name,
    ...given,
    decodeOnly: true as const,
  }))
  const malformed = Object.entries(MALFORMED).map(([name, bytes]) => ({
    name,
    bytes,
    message: {},
    error: 'ERR_FDB_MESSAGE',
  }))
  return [...known, ...unknown, ...malformed]
}

/** Bytes in base64. */
export function jsonOf(value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64')
  if (Array.isArray(value)) return value.map(jsonOf)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([field, one]) => [field, jsonOf(one)]))
}
