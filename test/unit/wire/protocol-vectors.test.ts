import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { initialMember, stepMember } from '../../../src/handoff/member-machine.js'
import { fdbroker } from '../../../src/proto/wire.js'
import { FrameDecoder } from '../../../src/wire/frame-decoder.js'
import { FORWARDS_WRITES, MERGES_SEGMENTS, TAKES_CONNECTIONS } from '../../../src/wire/link.js'
import { StateLog } from '../../fixtures/state.js'
import { segmentOf } from '../../fixtures/state-logs.js'
import { NIGHTLY } from '../../lanes/lane.js'
import { GO_ALONE, has } from '../../processes/toolchains.js'
import type { FrameVector, StreamVector } from '../../vectors/frames.js'
import { fileOf, PAGE, textOf, vectors, withTable } from '../../vectors/make.js'
import type { MemberWalk } from '../../vectors/member.js'
import { jsonOf, type MessageVector } from '../../vectors/messages.js'
import { type DigestVector, type StateVector, sectionsOf } from '../../vectors/state.js'
import type { WriteVector } from '../../vectors/writes.js'

const PYTHON = fileURLToPath(new URL('../../../proto/clients/python', import.meta.url))
const GO = fileURLToPath(new URL('../../../proto/clients/go', import.meta.url))
const read = <T>(name: string) => JSON.parse(readFileSync(fileOf(name), 'utf8')) as T[]

/** The code of what it throws; undefined: nothing. */
async function refusal(act: () => unknown): Promise<string | undefined> {
  try {
    await act()
    return undefined
  } catch (error) {
    return FdbError.from(error).code
  }
}

/** `12 instance`, of each field of Hello, by number. */
function fieldsOfHello(schema: string): string[] {
  const [, body = ''] = /^message Hello \{\n(.*?)^\}/ms.exec(schema) ?? []
  return [...body.matchAll(/^ +(?:repeated )?\w+ (\w+) = (\d+);/gm)].map(
    ([, name, number]) => `${number} ${name}`,
  )
}

/** The same from the table of docs/protocol.md, where a row may have several fields. */
function fieldsInRows(page: string): string[] {
  return [...page.matchAll(/^\| ([\d, ]+) \| ([`\w, ]+) \|/gm)].flatMap(([, numbers = '', names = '']) => {
    const each = names.split(', ')
    return numbers.split(', ').map((number, i) => `${number} ${each[i]?.replaceAll('`', '')}`)
  })
}

describe('docs/protocol.md', () => {
  const text = (path: string) => readFileSync(new URL(`../../../${path}`, import.meta.url), 'utf8')
  const [schema, page] = [text('proto/wire.proto'), text('docs/protocol.md')]
  const [, list = ''] = page.split('## Messages\n')

  it('lists the fields of Hello with their numbers', () => {
    const fields = fieldsOfHello(schema)
    expect(fields).toContain('13 state_file')
    expect(fieldsInRows(page.split('Fields of Hello')[1]!)).toEqual(fields)
  })

  it('lists every message of an Envelope, and every capability', () => {
    const [, bodies = ''] = /^message Envelope \{\n(.*?)^\}/ms.exec(schema) ?? []
    const messages = [...bodies.matchAll(/^ +(\w+) \w+ = \d+;/gm)].map(([, name]) => name!)
    expect(messages.length).toBeGreaterThan(50)
    const capabilities = [FORWARDS_WRITES, TAKES_CONNECTIONS, MERGES_SEGMENTS]
    const [section = ''] = list.split('\n### ')
    expect([...messages, ...capabilities].filter(name => !section.includes(`\`${name}\``))).toEqual([])
  })
})

describe('the vectors of the protocol', () => {
  it('come from this version (npx tsx test/vectors/make.ts writes them)', async () => {
    for (const [name, lines] of Object.entries(await vectors()))
      expect(readFileSync(fileOf(name), 'utf8'), name).toBe(textOf(lines))
  })

  it('come with a table in member.md that is made of the same machine (npx tsx test/vectors/make.ts writes it)', () => {
    const page = readFileSync(PAGE, 'utf8')
    expect(withTable(page)).toBe(page)
    expect(withTable(page.replace('`send serving`', '`send quiesced`'))).toBe(page)
  })

  for (const { name, bytes, arriving, payload, fds, error } of read<FrameVector>('frames')) {
    it(`frame: ${name}`, async () => {
      const decoder = new FrameDecoder<number>()
      const code = await refusal(() => {
        decoder.push(
          Buffer.from(bytes, 'hex'),
          Array.from({ length: arriving }, (_, n) => n),
        )
        const frame = decoder.next()
        expect(frame?.payload.toString('hex')).toBe(payload)
        expect(frame?.fds).toHaveLength(fds ?? 0)
      })
      expect(code).toBe(error)
    })
  }

  for (const { name, reads, frames, error } of read<StreamVector>('streams')) {
    it(`frames: ${name}`, async () => {
      const decoder = new FrameDecoder<number>()
      const got: { payload: string; fds: number }[] = []
      let arrived = 0
      const code = await refusal(() => {
        for (const { bytes, arriving } of reads) {
          decoder.push(
            Buffer.from(bytes, 'hex'),
            Array.from({ length: arriving }, () => arrived++),
          )
          for (let frame = decoder.next(); frame !== null; frame = decoder.next())
            got.push({ payload: frame.payload.toString('hex'), fds: frame.fds.length })
        }
      })
      expect(got).toEqual(frames)
      expect(code).toBe(error)
    })
  }

  it('messages decode to what they say', () => {
    for (const { name, bytes, message, error } of read<MessageVector>('messages')) {
      if (error !== undefined) {
        expect(() => fdbroker.wire.Envelope.decode(Buffer.from(bytes, 'hex')), name).toThrow()
        continue
      }
      const decoded = fdbroker.wire.Envelope.decode(Buffer.from(bytes, 'hex'))
      const { body, $unknowns, ...rest } = decoded
      expect(jsonOf(rest), name).toMatchObject(message)
      expect(body, name).toBe(Object.keys(message)[0])
    }
  })

  it('there is one of every message', () => {
    const named = new Set(read<MessageVector>('messages').flatMap(({ message }) => Object.keys(message)))
    const proto = readFileSync(new URL('../../../proto/wire.proto', import.meta.url), 'utf8')
    const [, oneof = ''] = /oneof body \{([\s\S]*?)\n {2}\}/.exec(proto) ?? []
    const all = [...oneof.matchAll(/^ +\w+ (\w+) = \d+;/gm)].map(([, field = '']) =>
      field.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()),
    )
    expect(all.length).toBeGreaterThan(40)
    // Messages on a way for connections, of an order that is not wanted any more, by an operator's tool, and one that a joiner may ignore.
    const others =
      'endDrain prepare prepareAck moved adopted firstWave waveProved moveRequest cancelCommand cancelUpgrade upgradeCancelled renew descriptorRequest descriptorReply unserved'
    expect(all.filter(field => !named.has(field)).sort()).toEqual(others.split(' ').sort())
  })

  for (const vector of read<StateVector | DigestVector>('state')) {
    if ('digest' in vector) continue
    const { name, segments, position, sections, error } = vector
    it(`state: ${name}`, async () => {
      const log = new StateLog()
      const code = await refusal(async () => {
        for (const { bytes, sealed } of segments)
          await log.adopt(segmentOf(Buffer.from(bytes, 'hex'), { sealed }))
        expect(log.position).toEqual(position)
        expect(sectionsOf(log)).toEqual(sections)
      })
      expect(code).toBe(error)
    })
  }

  it('changes of other processes are made, turned away or refused, each in its own way', () => {
    const answers = read<WriteVector>('writes').flatMap(({ steps }) =>
      steps.flatMap(step => ('written' in step ? [step.written] : [])),
    )
    const outcomes = answers.map(written => (written as { outcome: number }).outcome)
    expect([...new Set(outcomes)].sort()).toEqual([1, 2, 3, 4])
  })

  it('members do what they say', () => {
    for (const { steps } of read<MemberWalk>('member')) {
      let state = initialMember('member')
      for (const { event, effects, ...after } of steps) {
        const step = stepMember(state, event)
        state = step.state
        expect(step.effects).toEqual(effects)
        expect(state).toMatchObject(after)
      }
    }
  })

  it('members come to every phase, and do everything that there is to do', () => {
    const steps = read<MemberWalk>('member').flatMap(walk => walk.steps)
    const phases = 'ready beginning serving frozen standby orphan unfit leaving gone'
    expect(phases.split(' ').filter(phase => !steps.some(step => step.phase === phase))).toEqual([])
    const done = new Set(steps.flatMap(({ effects }) => effects.map(({ type }) => type)))
    const all =
      'send accept stopAccepting closeListeners quiesce unquiesce freeze thaw carry write endWriting judge reconnect drain exit'
    expect(all.split(' ').filter(type => ![...done].some(one => one === type))).toEqual([])
  })
})

describe.skipIf(!has('python3'))('the member in Python (skipped without python3)', () => {
  it('comes to the same', () => {
    const out = execFileSync('python3', ['-m', 'unittest', '-q'], {
      cwd: PYTHON,
      encoding: 'utf8',
      stdio: 'pipe',
      env: { ...process.env, PYTHONDONTWRITEBYTECODE: '1' },
    })
    expect(out).toBe('')
  })
})

describe.skipIf(!has('go'))('the member in Go (skipped without go)', () => {
  it('comes to the same', () => {
    const env = { ...process.env, ...GO_ALONE }
    const go = (...args: string[]) =>
      execFileSync('go', args, { cwd: GO, encoding: 'utf8', stdio: 'pipe', env })
    // The checks of vet, which compile more than the tests, are of the night.
    expect(go('test', '-count=1', ...(NIGHTLY ? [] : ['-vet=off']), '.')).toMatch(/^ok/)
    if (NIGHTLY) expect(go('vet', './...')).toBe('')
  })

  for (const system of ['darwin', 'windows', 'freebsd'])
    it.runIf(NIGHTLY)(`does not break the build of a program for ${system}`, () => {
      const env = { ...process.env, ...GO_ALONE, GOOS: system }
      for (const act of ['vet', 'build']) execFileSync('go', [act, './...'], { cwd: GO, stdio: 'pipe', env })
    })
})
