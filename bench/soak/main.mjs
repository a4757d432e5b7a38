// @ts-check
// npm run soak: what takes minutes. Without a name all, one after the other.
//
//   npm run soak -- generations   what generation N holds must not grow with N
//   npm run soak -- connections   what clients see whose connections live through many upgrades
//   npm run soak -- daemon        a daemon that is upgraded and killed, under a service's load
//   npm run soak -- workers       a proxy of several workers: spread, 50 upgrades, 50 kills, throughput
//   npm run soak -- run           a program that is upgraded every second, half of whose versions crash
//   npm run soak -- kills         a unit whose main process is killed 20 times, with a systemd of its own
//   npm run soak -- containers    containers whose PID 1 is upgraded 20 times
//   npm run soak -- chaos         an embedded application whose versions are killed, stopped, hung, and lose disk or control path
//   npm run soak -- daemon-chaos  a daemon that is killed and replaced amid upgrades and rollbacks of a member
//   npm run soak -- history       what clients saw of a state whose processes are upgraded, killed and stopped
//   npm run soak -- disk          power cuts behind every call to the disk, and an error of every call
//   npm run soak -- languages     members in Node, Python and Go that replace each other
//   npm run soak -- tls           thousands of TLS connections of all kinds, and transfers, through 20 upgrades

import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const NAMES = [
  'generations',
  'connections',
  'daemon',
  'workers',
  'run',
  'kills',
  'containers',
  'chaos',
  'daemon-chaos',
  'history',
  'disk',
  'languages',
  'tls',
]
const [first = '', ...rest] = process.argv.slice(2)
const named = NAMES.includes(first)

for (const name of named ? [first] : NAMES) {
  const file = fileURLToPath(new URL(`${name}.mjs`, import.meta.url))
  const args = named ? rest : process.argv.slice(2)
  // Each in a process of its own: options and exit code are its own.
  const { status } = spawnSync(process.execPath, [file, ...args], { stdio: 'inherit' })
  if (status !== 0) process.exitCode = 1
}
