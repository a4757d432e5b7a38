import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it } from 'vitest'
import { AutoProgram } from '../../e2e/auto-program.js'
import { processesLeft } from '../../e2e/auto-record.js'
import { signalPid } from '../../processes/launch.js'
import { installed } from '../installed.js'

/** An agent of a monitoring service: what a variable preloads, an expression that is true in a traced request, and settings; its server does not answer. */
interface Agent {
  readonly preload: string
  readonly traced: string
  readonly env: Readonly<Record<string, string>>
}

const AGENTS: Readonly<Record<string, Agent>> = {
  newrelic: {
    preload: 'newrelic',
    traced: "require('newrelic').agent.tracer.getTransaction() !== null",
    env: {
      NEW_RELIC_APP_NAME: 'shop',
      NEW_RELIC_LICENSE_KEY: '0'.repeat(40),
      NEW_RELIC_HOST: '127.0.0.1',
      NEW_RELIC_PORT: '1',
      NEW_RELIC_LOG_ENABLED: 'false',
      NEW_RELIC_NO_CONFIG_FILE: 'true',
    },
  },
  'dd-trace': {
    preload: 'dd-trace/init',
    traced: "require('dd-trace').scope().active() !== null",
    env: {
      DD_TRACE_AGENT_URL: 'http://127.0.0.1:1',
      DD_INSTRUMENTATION_TELEMETRY_ENABLED: 'false',
      DD_REMOTE_CONFIGURATION_ENABLED: 'false',
      DD_TRACE_STARTUP_LOGS: 'false',
    },
  },
  OpenTelemetry: {
    preload: '@opentelemetry/auto-instrumentations-node/register',
    traced: "require('@opentelemetry/api').trace.getActiveSpan() !== undefined",
    env: {
      OTEL_TRACES_EXPORTER: 'none',
      OTEL_METRICS_EXPORTER: 'none',
      OTEL_LOGS_EXPORTER: 'none',
      OTEL_NODE_RESOURCE_DETECTORS: 'env',
      OTEL_LOG_LEVEL: 'none',
    },
  },
}

/** A server that starts another process of Node, which has the same preloads, before it listens. */
const server = (traced: string) => `const { execFileSync } = require('node:child_process')
console.log(String(execFileSync(process.execPath, ['-p', '"child"'])).trim())
require('node:http')
  .createServer((_, response) => response.writeHead(${traced} ? 200 : 500).end('pid ' + process.pid))
  .listen(8080)
process.on('SIGTERM', () => setTimeout(() => process.exit(0), 100))
`

let modules = ''

beforeAll(() => {
  modules = installed(fileURLToPath(new URL('.', import.meta.url)))
}, 300_000)

describe('a program under fd-broker/auto with an agent in NODE_OPTIONS starts children, traces each request, and is upgraded without a lost one:', () => {
  it.each(
    Object.keys(AGENTS).flatMap(name => [[name, 'before fd-broker'] as const, [name, 'behind it'] as const]),
  )('%s, %s', async (name, order) => {
    const { preload, traced, env } = AGENTS[name]!
    const preloads = order === 'behind it' ? ['fd-broker/auto', preload] : [preload, 'fd-broker/auto']
    const program = await AutoProgram.of(server(traced), 'server.cjs', {
      modules,
      env: {
        ...env,
        NODE_OPTIONS: preloads.map(each => `--require ${each}`).join(' '),
        FD_BROKER_PROBATION: '200ms',
        NODE_ENV: 'production',
      },
    })
    await program.serve('nothing')
    await program.upgradedUnderLoad('nothing', { upgrades: 3, rate: 100 })
    await processesLeft(program, 1)
    expect(program.output).toBe('child\n'.repeat(4))
    const last = await program.serves(4)
    signalPid(last, 'SIGTERM')
    await program.ends(last)
    await expect(fetch(program.url)).rejects.toThrow()
  })
})

it('under fd-broker/auto a version whose only listener of SIGTERM is that of an agent, OpenTelemetry, ends when it is replaced, and at fd-broker stop', async () => {
  const { preload, traced, env } = AGENTS.OpenTelemetry!
  const program = await AutoProgram.of(server(traced).replace(/^process\.on.*\n/m, ''), 'server.cjs', {
    modules,
    env: { ...env, NODE_OPTIONS: `--require ${preload} --require fd-broker/auto`, FD_BROKER_PROBATION: '0' },
  })
  const first = await program.serve('nothing')
  const second = await program.serve('nothing', 2)
  await program.ends(first)
  await program.command('stop')
  await program.ends(second)
})
