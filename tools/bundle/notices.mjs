// @ts-check
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const HEAD = `Code of these packages is in the files of this folder, under their own licences.
`
const RULE = '-'.repeat(100)

/**
 * Name, version and licence of each package that these modules are from. Throws for one whose licence is not in it.
 * @param {string} root
 * @param {readonly string[]} modules paths from there
 */
export function notices(root, modules) {
  const folders = new Set(modules.flatMap(path => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path) ?? []))
  const texts = [...folders].sort().map(folder => {
    const { name, version, license } = JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8'))
    const file = readdirSync(join(root, folder)).find(entry => /^licen[cs]e(\.\w+)?$/i.test(entry))
    if (file === undefined)
      throw new Error(`${folder} has no file with its licence: what may be shipped of it?`)
    return `${RULE}\n${name} ${version} (${license})\n\n${readFileSync(join(root, folder, file), 'utf8').trim()}\n`
  })
  return [HEAD, ...texts].join('\n')
}
