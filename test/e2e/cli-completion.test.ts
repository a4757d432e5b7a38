import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { Sandbox } from './cli-processes.js'

const MAN_PAGE = fileURLToPath(new URL('../../dist/fd-broker.1', import.meta.url))

/** The words that bash offers for a command line whose last word is being written. */
function completedBy(script: string, words: readonly string[], env = process.env): string[] {
  const program = `${script}
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
compopt() { :; }
_fd_broker; printf '%s\\n' "\${COMPREPLY[@]}"`
  const text = execFileSync('bash', ['-c', program, 'bash', 'fd-broker', ...words], {
    encoding: 'utf8',
    env,
  })
  return text.split('\n').filter(line => line !== '')
}

describe('fd-broker completion', () => {
  it('completes commands, options, choices, files and services in bash', async () => {
    const sandbox = Sandbox.open()
    const { code, stdout: script } = await sandbox.run('completion', 'bash')
    expect(code).toBe(0)
    const completed = (...words: string[]) => completedBy(script, words)
    expect(completed('stat').sort()).toEqual(['state', 'status'])
    expect(completed('state', 's').sort()).toEqual(['show', 'stats'])
    expect(completed('upgrade', '--timeo')).toEqual(['--timeout'])
    expect(completed('run', '--log-level', 'w')).toEqual(['warn'])
    expect(completed('completion', 'z')).toEqual(['zsh'])
    await sandbox.shop()
    expect(completed('status', '--control', `${sandbox.folder}/up`)).toContain(sandbox.control)
    expect(completed('start', `${sandbox.folder}/up`)).toContain(sandbox.control)
    expect(completed('start', '--pid')).toEqual(['--pid-file'])
    expect(completed('status', `${sandbox.folder}/up`)).toEqual([])
    expect(completed('upgrade', '--timeout', '')).toEqual([])
    // Behind it is another program's command line.
    expect(completed('run', '--', '--l')).toEqual([])
  })

  it('completes services by their name, also of fd-broker run and in the temporary folder', async () => {
    const sandbox = Sandbox.open()
    const { stdout: script } = await sandbox.run('completion', 'bash')
    const folders = [
      join(sandbox.folder, 'fd-broker'),
      join(sandbox.folder, `fd-broker-${process.geteuid!()}`),
    ]
    for (const folder of folders) mkdirSync(folder)
    const env = { ...process.env, TMPDIR: sandbox.folder, XDG_RUNTIME_DIR: sandbox.folder }
    const paths = [join(folders[0]!, 'kiosk.run.sock'), join(folders[1]!, 'booth.sock')]
    const servers = await Promise.all(
      paths.map(async path => {
        const server = createServer().listen(path)
        await once(server, 'listening')
        return server
      }),
    )
    const completed = completedBy(script, ['status', '--service', ''], env)
    for (const server of servers) server.close()
    expect(completed).toEqual(expect.arrayContaining(['kiosk', 'booth']))
    expect(completed).not.toContain('kiosk.run')
  })

  it('names every command and option in each shell, and in the manual page', async () => {
    const sandbox = Sandbox.open()
    const page = readFileSync(MAN_PAGE, 'utf8').replaceAll('\\-', '-')
    const help = (await sandbox.run('--help')).stdout
    const [, list = ''] = help.split(/^Commands:$/m)
    const names = [...list.matchAll(/^ {2}([a-z]+)/gm)].map(([, name]) => name!)
    expect(names.length).toBeGreaterThan(15)
    const { stdout: zsh } = await sandbox.run('completion', 'zsh')
    const { stdout: fish } = await sandbox.run('completion', 'fish')
    for (const name of names.filter(name => name !== 'help')) {
      expect(zsh).toContain(`'fd-broker ${name}')`)
      expect(fish).toContain(`-a '${name}'`)
      expect(page).toMatch(new RegExp(`^\\.SS ${name}\\b`, 'm'))
    }
    expect(zsh).toMatch(/^ +'fd-broker start'\) _files;/m)
    expect(fish).toMatch(/^complete -c fd-broker -n '.*fd-broker start.*' -F$/m)
    for (const option of ['kill-stuck', 'binary']) {
      expect(zsh).toContain(`'--${option}:`)
      expect(fish).toContain(`-l ${option} `)
      expect(page).toContain(`.B --${option}`)
    }
  })

  it('refuses a shell that it does not know', async () => {
    const { code, stderr } = await Sandbox.open().run('completion', 'tcsh')
    expect({ code, stderr }).toEqual({
      code: 2,
      stderr: expect.stringMatching(/'tcsh' is invalid.*bash, zsh, fish/),
    })
  })
})
