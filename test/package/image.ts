import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { canTryImages, tryImage } from './image-build.js'
import { freePort } from './processes.js'
import { ROOT, type Tarball } from './tarball.js'

const CONTROL = '/run/fd-broker/upgrade.sock'
const UPGRADES = 3

/** The Dockerfile's steps, and then its proxy as PID 1: upgraded by the command from inside, and told to end. */
export async function checkImage(
  tarball: Tarball,
  { registry, cache }: { registry: string; cache: string },
): Promise<string[]> {
  if (!canTryImages()) {
    console.log('       not tried: it needs root, and overlays in a namespace')
    return []
  }
  const config = {
    service: 'edge',
    control: CONTROL,
    listeners: [{ name: 'http', address: `tcp://127.0.0.1:${await freePort()}` }],
    routes: [{ host: '*', respond: { status: 200, body: 'ok' } }],
    upgrade: { probation: '0s' },
  }
  const ask = `fd-broker status --control ${CONTROL}`
  const { code, text } = await tryImage(readFileSync(join(ROOT, 'docs/examples/image/Dockerfile'), 'utf8'), {
    tarball: tarball.path,
    env: { npm_config_registry: registry, npm_config_cache: cache },
    files: { '/etc/fd-broker/proxy.yaml': JSON.stringify(config) },
    meanwhile: [
      `for i in $(seq 100); do ${ask} > /dev/null 2>&1 && break; sleep 0.1; done`,
      `for i in $(seq ${UPGRADES}); do fd-broker upgrade --control ${CONTROL} > /dev/null; done`,
      `echo "generation $(${ask} --json | grep '"generation"') as $(id -u)"`,
    ].join('\n'),
  })
  const wrong: string[] = []
  if (!text.includes(`"generation": ${UPGRADES + 1}, as 1000`)) wrong.push(`it was not upgraded: ${text}`)
  if (code !== 0) wrong.push(`PID 1 ended with ${code}: ${text}`)
  return wrong
}
