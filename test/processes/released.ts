import { mkdirSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { SERVER, Supervised } from './supervised.js'
import { until } from './until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

/** A program in a release folder, which a link leads to. */
export async function released(args: readonly string[]) {
  const run = await Supervised.prepare()
  const { folder } = run.sandbox
  const gate = join(folder, 'gate')
  const release = (name: string, orders: object, before = '') => {
    const where = join(folder, name)
    mkdirSync(where)
    const program = `#!/bin/sh\n${before}FDB_SUPERVISED='${run.orders({ ...orders, release: name })}' exec ${SERVER}\n`
    writeFileSync(join(where, 'server'), program, { mode: 0o755 })
    return where
  }
  const [one, two, wrong] = [release('1', {}), release('2', {}), release('3', { crash: 9 })]
  const link = join(folder, 'current')
  symlinkSync(one, link)
  await run.launch(args, [join(link, 'server')])
  await run.serving()
  const at = ['--at', link]
  return {
    run,
    one,
    two,
    wrong,
    link,
    /** As another program does it. */
    elsewhere: (to: string) => {
      rmSync(link)
      symlinkSync(to, link)
    },
    leadsTo: () => readlinkSync(link),
    /** A release that begins when the gate is open. */
    held: (name: string) => release(name, {}, `until [ -e ${gate} ]; do sleep 0.05; done\n`),
    open: () => writeFileSync(gate, ''),
    /** The pid of `fd-broker upgrade` in the background. */
    client: (to: string) =>
      run.sandbox.launch([process.execPath, CLI, 'upgrade', '--control', run.control, ...at, '--binary', to]),
    /** The pid of a version that was started. */
    started: async (version: number): Promise<number> =>
      (await run.logged('a version was started', line => line.version === version)).child,
    upgrade: (to: string) => run.upgrade(...at, '--binary', to),
    rollback: (...more: string[]) => run.sandbox.run('rollback', '--control', run.control, ...more),
    at,
    /** Which release answers. */
    answers: async () => (await fetch(`${run.url}/release`, { headers: { connection: 'close' } })).text(),
    /** One version alone is left: which release it answers with. */
    settled: async () => {
      await until('one version alone is left', async () => {
        const { draining, phase, role } = await run.status()
        return role === 'serving' && phase === 'idle' && draining.length === 0
      })
      return (await fetch(`${run.url}/release`, { headers: { connection: 'close' } })).text()
    },
  }
}
