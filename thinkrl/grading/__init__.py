"""Answer checking: verdicts that say correct, wrong, ungradable or timeout."""
