"""Say whether this process may write where only root may."""

try:
    open("/etc/tidegate-test", "w").close()
    print("written")
except OSError:
    print("refused")
