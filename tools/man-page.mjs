// @ts-check
// Generates dist/fd-broker.1, the manual page of the command, from the built definitions of its commands (build/modules/cli).
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
/** @param {string} name */
const load = name => import(pathToFileURL(join(root, 'build/modules/cli', name)).href)
/** @type {typeof import('../src/cli/program.js')} */
const { wholeProgram } = await load('program.js')
/** @type {typeof import('../src/cli/completion.js')} */
const { allOf, outlineOf } = await load('completion.js')
/** @type {typeof import('../src/cli/output.js')} */
const { EXIT_CODES } = await load('output.js')

/** @typedef {import('../src/cli/completion.js').Outline} Outline */

/** Escapes a text for roff. @param {string} text */
const literal = text =>
  text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replace(/^([.'])/gm, '\\&$1')

/** @param {Outline} outline */
const optionsOf = ({ options }) =>
  options.map(({ flags, description }) => `.TP\n.B ${literal(flags)}\n${literal(description)}\n`).join('')

/** @param {Outline} outline */
const sectionOf = outline => {
  const { path, usage, description, after } = outline
  const more = after === '' ? '' : `.PP\n.nf\n${literal(after)}\n.fi\n`
  return `.SS ${literal(path.replace(/^fd-broker /, ''))}
.B ${literal(path)}
${literal(usage)}
.PP
${literal(description)}
${optionsOf(outline)}${more}`
}

const { version, description } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const whole = outlineOf(await wholeProgram())
const codes = Object.entries(EXIT_CODES).map(([code, what]) => `.TP\n.B ${code}\n${literal(what)}\n`)
const page = `.TH FD\\-BROKER 1 "" "fd\\-broker ${literal(version)}"
.SH NAME
fd\\-broker \\- ${literal(description)}
.SH SYNOPSIS
.B fd\\-broker
${literal(whole.usage)}
.SH DESCRIPTION
${literal(whole.description)}
${optionsOf(whole)}.SH COMMANDS
${allOf(whole)
  .filter(({ commands }) => commands.length === 0)
  .map(sectionOf)
  .join('')}.SH EXIT STATUS
${codes.join('')}.SH ENVIRONMENT
.TP
.B FD_BROKER_CONTROL
control socket of the service
.TP
.B FD_BROKER_ADDON
the file of the native addon, which is then the only one tried
.TP
.B FD_BROKER_CODE_CACHE
folder of compiled code, or off
.TP
.B NO_COLOR
disables colours
`
writeFileSync(join(root, 'dist/fd-broker.1'), page)
