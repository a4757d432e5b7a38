import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { promisify } from 'node:util'
import { onTestFinished } from 'vitest'
import { until } from './until.js'

const run = promisify(execFile)
const NETWORK = '10.77.0'

/** A machine as the network sees it: an address and a loopback of its own, and an empty /run. All that it runs ends with the scene. */
export class Machine {
  readonly name: string
  readonly address: string
  /** Before a command that this machine runs. */
  readonly inside: readonly string[]

  constructor(name: string, address: string, pid: number) {
    this.name = name
    this.address = address
    this.inside = ['nsenter', '--target', `${pid}`, '--net', '--mount', '--']
  }

  /** Runs a command inside. Rejects if its exit code is not 0. */
  async run(...command: readonly string[]): Promise<string> {
    const [file = '', ...args] = [...this.inside, ...command]
    const { stdout } = await run(file, args)
    return stdout
  }
}

/** Machines on one switch, and a machine for clients. Needs root and `ip`. */
export class Machines {
  readonly clients: Machine
  readonly all: readonly Machine[]

  private constructor(clients: Machine, all: readonly Machine[]) {
    this.clients = clients
    this.all = all
  }

  static async start(names: readonly string[]): Promise<Machines> {
    const pids = [await namespace(), ...(await Promise.all(names.map(namespace)))]
    const [lan = 0, ...others] = pids
    const clients = new Machine('clients', `${NETWORK}.1`, lan)
    await clients.run('ip', 'link', 'add', 'lan', 'type', 'bridge')
    await clients.run('ip', 'addr', 'add', `${NETWORK}.1/24`, 'dev', 'lan')
    await clients.run('ip', 'link', 'set', 'lan', 'up')
    const all: Machine[] = []
    for (const [n, pid] of others.entries()) {
      const machine = new Machine(names[n]!, `${NETWORK}.${n + 2}`, pid)
      const peer = ['peer', 'name', 'eth0', 'netns', `${pid}`]
      await clients.run('ip', 'link', 'add', `port${n}`, 'type', 'veth', ...peer)
      await clients.run('ip', 'link', 'set', `port${n}`, 'master', 'lan', 'up')
      await machine.run('ip', 'addr', 'add', `${machine.address}/24`, 'dev', 'eth0')
      await machine.run('ip', 'link', 'set', 'eth0', 'up')
      all.push(machine)
    }
    return new Machines(clients, all)
  }
}

/** Resolves with the pid of a process in namespaces of its own. */
async function namespace(): Promise<number> {
  const command = 'mount -t tmpfs none /run && ip link set lo up && echo up && exec sleep infinity'
  const child: ChildProcess = spawn('unshare', ['--net', '--mount', 'sh', '-c', command], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  let said = ''
  child.stdout!.on('data', text => (said += text))
  await until('a machine is up', () => said.includes('up'))
  return child.pid!
}
