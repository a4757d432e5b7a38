import { readFileSync, statSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import type { Member } from '../../src/index.js'
import { CertificateTable } from '../../src/proxy/tls/certificate-table.js'
import type { CertificateList } from '../../src/proxy/tls/commands.js'
import { LiveCertificates } from '../../src/proxy/tls/live-certificates.js'
import { type CertificateMessage, certificateMessage } from '../../src/proxy/tls/section.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { Edge } from '../processes/edge.js'
import { askTls } from '../processes/tls-client.js'
import { until } from '../processes/until.js'

async function secured() {
  const edge = await Edge.prepare({
    routes: [{ host: '*', respond: { body: 'hello\n' } }],
    upgrade: { probation: '0s' },
  })
  const certificates = [edge.issue('localhost'), edge.issue('file-a', ['a.test', '*.wild.test'])]
  edge.write(edge.secured(certificates))
  await edge.next()
  const command = (name: string, ...args: string[]) =>
    edge.sandbox.run('certificates', name, '--control', edge.sandbox.control, ...args)
  /** Adds a certificate that is issued now. */
  const add = (name: string, dns: string[], ...args: string[]) => {
    const { cert, key } = edge.issue(name, dns)
    return command('add', '--cert', cert, '--key', key, ...args)
  }
  const list = async () => JSON.parse((await command('list', '--json')).stdout) as CertificateList
  const seen = async (servername: string) => {
    const { certificate, socket } = await askTls(edge.port, { servername })
    socket.destroy()
    return certificate
  }
  /** The next version answers, and the one before no more. */
  const upgrade = async () => {
    const pid = await edge.next()
    await until('the next version is alone', async () => (await edge.status()).draining.length === 0, 20_000)
    return pid
  }
  return { edge, certificates, command, add, list, seen, upgrade }
}

describe('a certificate made at run time', () => {
  it('counts at once, and crosses upgrades to a version whose file does not know it', async () => {
    const { edge, add, list, seen, upgrade } = await secured()
    expect(await seen('new.test')).toBe('localhost')
    expect(await add('made', ['new.test', '*.new.test'])).toMatchObject({
      code: 0,
      stdout: 'new.test added\n',
    })
    for (let n = 0; n < perLane(2, 3); n++) {
      expect([await seen('new.test'), await seen('sub.new.test')]).toEqual(['made', 'made'])
      const { certificates } = await list()
      expect(certificates.map(({ origin, name }) => `${origin}:${name}`).sort()).toEqual([
        'file:*',
        'file:a.test',
        'runtime:new.test',
      ])
      expect(certificates.find(({ name }) => name === 'new.test')).toMatchObject({
        names: ['new.test', '*.new.test'],
        inForce: ['new.test', '*.new.test'],
        standard: false,
        generation: 1,
        notAfter: expect.any(Number),
      })
      await upgrade()
    }
    expect((await edge.status()).sections.find(({ name }) => name === 'certificates')).toMatchObject({
      entries: 3,
      version: 1,
    })
  })

  it.runIf(NIGHTLY)(
    'goes before that of the file until it is removed, and is named where the file has the name too',
    async () => {
      const { edge, add, command, list, seen, upgrade } = await secured()
      expect(await seen('a.test')).toBe('file-a')
      expect((await add('made', ['a.test'])).stdout).toBe(
        'a.test added\nused instead of the file’s: a.test\n',
      )
      expect([await seen('a.test'), await seen('x.wild.test')]).toEqual(['made', 'file-a'])
      const first = await edge.pid
      await edge.reload({})
      const second = await upgrade()
      const warning = 'certificates made at run time override certificates of the file'
      const told = edge.lines.filter(({ msg }) => String(msg).startsWith(warning))
      // The first version passes its reload on, so that the second one warns again.
      expect(new Set(told.map(({ pid, names }) => `${pid}: ${names}`))).toEqual(
        new Set([`${first}: a.test`, `${second}: a.test`]),
      )
      expect(await seen('a.test')).toBe('made')
      const shown = (await list()).certificates.find(
        ({ origin, name }) => origin === 'file' && name === 'a.test',
      )
      expect(shown?.inForce).toEqual(['*.wild.test'])
      expect(await command('remove', 'a.test')).toMatchObject({ code: 0, stdout: 'a.test removed\n' })
      expect(await seen('a.test')).toBe('file-a')
      const again = await command('remove', 'a.test')
      expect(again.stderr).toMatch(/ERR_FDB_CERTIFICATE: .*a\.test comes from the configuration file/)
      expect((await command('remove', 'b.test')).stderr).toMatch(
        /no certificate made at run time has b\.test as its first name/,
      )
    },
  )

  it('can be replaced on request, and meets a refusal with its reason when it is wrong', async () => {
    const { edge, add, command, seen } = await secured()
    await add('one', ['b.test'])
    const { cert, key } = edge.issue('one', ['b.test'])
    const twice = await command('add', '--cert', cert, '--key', key)
    expect(twice.stderr).toMatch(/b\.test was made at run time before, with another certificate; replace it/)
    expect((await add('two', ['b.test'], '--replace')).stdout).toBe('b.test replaced\n')
    expect(await seen('b.test')).toBe('two')
    const two = ['--cert', `${edge.sandbox.folder}/two.crt`, '--key', `${edge.sandbox.folder}/two.key`]
    expect((await command('add', ...two)).stdout).toBe('b.test exists already\n')
    if (!NIGHTLY) return
    const mixed = await command('add', '--cert', cert, '--key', `${edge.sandbox.folder}/two.key`)
    expect(mixed.stderr).toMatch(/no certificate was changed: key: the key does not belong to/)
    const nameless = await add('nameless', [])
    expect(nameless.stderr).toMatch(/cert: it has no DNS name: give names/)
    expect((await add('nameless', [], '--name', 'c.test', 'D.test')).stdout).toBe('c.test added\n')
    expect(await seen('d.test')).toBe('nameless')
    const rsa = edge.issue('rsa', ['r.test'], 'rsa:2048')
    expect((await command('add', '--cert', rsa.cert, '--key', rsa.key)).stdout).toBe('r.test added\n')
    expect([await seen('r.test'), await seen('b.test'), await seen('')]).toEqual(['rsa', 'two', 'localhost'])
    expect((await command('add', '--cert', '/nonexistent', '--key', rsa.key)).stderr).toMatch(
      /ERR_FDB_CERTIFICATE: \/nonexistent cannot be read/,
    )
  })
})

describe('certificates as state', () => {
  it('return after a crash, with the keys for sessions, in a file that only its owner may read', async () => {
    const { edge, add, seen } = await secured()
    const path = `${edge.sandbox.folder}/state`
    edge.write({ stateFile: { path, sync: 'always' } })
    const pid = await edge.next()
    await until('the next version is alone', async () => (await edge.status()).draining.length === 0, 20_000)
    await add('made', ['b.test'])
    const { session, socket } = await askTls(edge.port, { servername: 'b.test' })
    socket.destroy()
    await edge.stateWritten()
    await edge.signal('SIGKILL', pid)
    await edge.ended(pid)
    expect(statSync(path).mode & 0o777).toBe(0o600)
    await edge.next()
    expect(await seen('b.test')).toBe('made')
    expect((await askTls(edge.port, { servername: 'b.test', session })).reused).toBe(true)
  })

  it('come from the file of the serving process, and stay secret', async () => {
    const { edge, add, command, list, upgrade } = await secured()
    await add('made', ['b.test'])
    edge.write(edge.secured([edge.issue('other', ['o.test']), edge.issue('other2', ['o.test', 'p.test'])]))
    await upgrade()
    const { certificates, handshakes, ticketKeys } = await list()
    expect(certificates.map(({ origin, name, standard }) => [origin, name, standard])).toEqual([
      ['runtime', 'b.test', false],
      ['file', 'o.test', true],
      ['file', 'o.test#2', false],
    ])
    expect(handshakes).toEqual({ completed: 0, resumed: 0, failed: {} })
    expect(ticketKeys).toMatchObject({ rotateEvery: 43_200_000 })
    const { stdout: text } = await command('list')
    expect(text).toMatch(/o\.test +file \(default\) +\d{4}-\d\d-\d\d \([12] days\)/)
    const key = readFileSync(`${edge.sandbox.folder}/made.key`, 'latin1').split('\n')[1]!
    const show = await edge.sandbox.run('state', 'show', '--control', edge.sandbox.control)
    expect(show.stdout).toMatch(/"section":"certificates","key":"runtime:b\.test".*"redacted":true/)
    const asked = await edge.sandbox.run('state', 'show', '--secrets', '--control', edge.sandbox.control)
    expect(asked.stdout).toContain(key)
    for (const output of [edge.sandbox.output, text, show.stdout, JSON.stringify(certificates)]) {
      expect(output).not.toContain(key)
    }
  })
})

describe('a stored certificate that cannot be read', () => {
  it('stands in no list of all', () => {
    const times = { notBefore: 0, notAfter: 1 }
    const material = { names: ['a.test'], chain: '', key: '', keyKind: 'ec', serial: '1', fingerprint: '2' }
    const good = certificateMessage({ ...material, ...times }, { created: 3, generation: 4 })
    class Damaged extends Map<string, CertificateMessage> {
      override get(key: string): CertificateMessage | undefined {
        if (key.includes('bad')) throw new Error(`${key} cannot be decoded`)
        return super.get(key)
      }
      onChange() {
        return () => {}
      }
    }
    const keys = ['file:bad.test', 'runtime:bad.test', 'runtime:a.test']
    const section = new Damaged(keys.map(key => [key, good]))
    const member = { generation: 1, section: () => section } as unknown as Member
    const certificates = new LiveCertificates(member, new CertificateTable(), SILENT)
    expect(certificates.list().map(({ name }) => name)).toEqual(['a.test'])
    certificates.stop()
  })
})
