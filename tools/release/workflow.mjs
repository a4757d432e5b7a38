// @ts-check
// Reads from the environment whether this process runs in the workflow that may publish.

const FILE = '.github/workflows/release.yml'

/**
 * @param {NodeJS.ProcessEnv} env
 * @returns {{ home: string, tag: string | null, mayPublish: boolean } | null} null if this is not the workflow. `mayPublish`: the job can get an
 *   identity token, with which npm publishes without a stored token.
 */
export function workflowOf(env) {
  if (env.GITHUB_ACTIONS !== 'true') return null
  const repository = env.GITHUB_REPOSITORY ?? ''
  if (!env.GITHUB_WORKFLOW_REF?.startsWith(`${repository}/${FILE}@`)) return null
  return {
    home: `${env.GITHUB_SERVER_URL}/${repository}`,
    tag: env.GITHUB_REF_TYPE === 'tag' ? (env.GITHUB_REF_NAME ?? null) : null,
    mayPublish: Boolean(env.ACTIONS_ID_TOKEN_REQUEST_URL),
  }
}
