// @ts-check
// The manual page, made of what the command says of itself.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** @param {string} text as roff reads it literally */
const literal = text =>
  text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replace(/^([.'])/gm, '\\&$1')

/**
 * @param {string} file the command
 * @param {{ version: string, description: string }} manifest
 * @param {Date} time
 */
export async function manPage(file, { version, description }, time) {
  // What it keeps of itself would be packed with it.
  const env = { ...process.env, COLUMNS: '78', FD_BROKER_CODE_CACHE: 'off' }
  /** @param {string[]} args */
  const help = async (...args) =>
    (await run(process.execPath, [file, ...args, '--help'], { env })).stdout.trimEnd()
  const whole = await help()
  const [, list = ''] = whole.split(/^Commands:$/m)
  const names = [...list.matchAll(/^ {2}([a-z-]+)/gm)]
    .map(([, name = '']) => name)
    .filter(name => name !== 'help')
  const each = await Promise.all(names.map(async name => ({ name, text: await help(name) })))
  const block = (/** @type {string} */ text) => `.nf\n${literal(text)}\n.fi\n`
  return `.TH FD\\-BROKER 1 ${time.toISOString().slice(0, 10)} "fd\\-broker ${literal(version)}"
.SH NAME
fd\\-broker \\- ${literal(description)}
.SH SYNOPSIS
${block(whole)}.SH COMMANDS
${each.map(({ name, text }) => `.SS ${literal(name)}\n${block(text)}`).join('')}`
}
