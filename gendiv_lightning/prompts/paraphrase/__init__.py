"""Generate paraphrases of prompts with a language model, check and store them; interruptions change nothing."""
