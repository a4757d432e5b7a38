import { resolve } from 'node:path'
import type { Command } from 'commander'
import type { Finding } from './doctor-checks.js'
import { plain, print, style } from './output.js'

interface DoctorFlags {
  control?: string
  service?: string
  json?: true
}

export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('check which features work on this machine; exit code 1 if upgrades do not')
    .option('--control <path>', 'control socket of a future service; default: from its name')
    .option('--service <name>', 'name of the service; default: from package.json')
    .option('--json', 'print the answer as JSON')
    .addHelpText(
      'after',
      `
Run doctor as the service's user, in its unit or container, because it checks the limits, folders and system call filters there.

Examples:
  $ fd-broker doctor
  $ sudo -u shop fd-broker doctor --control /run/shop/upgrade.sock
  $ docker run --rm --entrypoint npx IMAGE fd-broker doctor`,
    )
    .action(doctor)
}

async function doctor({ control, service, json }: DoctorFlags): Promise<void> {
  const { examine } = await import('./doctor-checks.js')
  const { serviceName } = await import('../auto/settings.js')
  const named = service ?? serviceName(resolve('server.js'))
  const findings = await examine({ control, service: named, env: process.env })
  const ok = findings.every(({ status }) => status !== 'failed')
  print(json, { ok, findings }, () => textOf(findings))
  if (!ok) process.exitCode = 1
}

const COLOURS = { ok: 'green', note: 'dim', warning: 'yellow', failed: 'red' } as const

export function textOf(findings: readonly Finding[]): string {
  const lines = findings.flatMap(({ status, name, found, remedy }) => [
    `${style(COLOURS[status], status.padEnd(7))}  ${style('bold', name)}: ${plain(found)}`,
    ...(remedy === undefined ? [] : [`         ${plain(remedy)}`]),
  ])
  const failed = findings.filter(({ status }) => status === 'failed').length
  const warnings = findings.filter(({ status }) => status === 'warning').length
  const sum =
    failed > 0
      ? `Upgrades do not work here: ${failed} failed.`
      : warnings > 0
        ? `Upgrades work here, with ${warnings === 1 ? '1 warning' : `${warnings} warnings`}.`
        : 'Upgrades work here.'
  return `${lines.join('\n')}\n\n${sum}\n`
}
